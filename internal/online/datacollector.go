package online

import (
	"crypto/sha256"
	"encoding/binary"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DataCollector says which data of a deployment's requests are kept, and where.
type DataCollector struct {
	Collections []Collection `json:"collections,omitempty"` // in order of name
	RollingRate string       `json:"rollingRate"`           // one of RollingRates
}

// Collection is one stream of kept data.
type Collection struct {
	Name         string    `json:"name"`
	Enabled      bool      `json:"enabled"`
	SamplingRate float64   `json:"samplingRate"`    // share of the requests, 0 to 1
	Data         *AssetRef `json:"data,omitempty"`  // the data asset that stands for it; set by control
	Blobs        string    `json:"blobs,omitempty"` // CONTAINER/PATH of the data asset; set by control
}

// The collections that are filled without the code's help, from the bodies of requests and answers.
const (
	CollectionRequest  = "request"
	CollectionResponse = "response"
)

// The collections that the runtime of MLflow models fills.
const (
	CollectionInputs  = "model_inputs"
	CollectionOutputs = "model_outputs"
)

// MaxCollections bounds the enabled collections that code fills, as Azure documents it. The reserved ones come on top.
const MaxCollections = 5

// RollingRates say how deep the folders of collected data are: one for each part of the time down to this.
var RollingRates = []string{"Year", "Month", "Day", "Hour", "Minute"}

// rollingFolders are the layouts of the folders, in the order of RollingRates.
var rollingFolders = []string{"2006", "2006/01", "2006/01/02", "2006/01/02/15", "2006/01/02/15/04"}

var collectionRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Folder is the folder below a collection's own that holds what was collected at a time.
func (c *DataCollector) Folder(at time.Time) string {
	return at.UTC().Format(rollingFolders[max(slices.Index(RollingRates, c.RollingRate), 0)])
}

// Find gives an enabled collection by its name without regard to case, or nil. It may be called on nil.
func (c *DataCollector) Find(name string) *Collection {
	if c == nil {
		return nil
	}
	for i := range c.Collections {
		if c.Collections[i].Enabled && strings.EqualFold(c.Collections[i].Name, name) {
			return &c.Collections[i]
		}
	}
	return nil
}

// Enabled lists the names of the enabled collections. It may be called on nil.
func (c *DataCollector) Enabled() []string {
	var out []string
	if c != nil {
		for i := range c.Collections {
			if c.Collections[i].Enabled {
				out = append(out, c.Collections[i].Name)
			}
		}
	}
	return out
}

// Reserved says whether a collection is filled from bodies and not by code.
func Reserved(collection string) bool {
	return strings.EqualFold(collection, CollectionRequest) || strings.EqualFold(collection, CollectionResponse)
}

// Samples says whether what belongs to an id is kept. It depends on the id and the rate alone, so that the parts of one
// request are kept or dropped together wherever that is decided, and a lower rate keeps a part of what a higher one does.
func (c *Collection) Samples(id string) bool {
	if c.SamplingRate >= 1 {
		return true
	}
	sum := sha256.Sum256([]byte(id))
	// The upper 53 bits make a fraction that a float64 holds exactly, below 1.
	return float64(binary.BigEndian.Uint64(sum[:8])>>11)/(1<<53) < c.SamplingRate
}

func (c *DataCollector) validate() []*Error {
	if c == nil {
		return nil
	}
	const target = "properties.dataCollector"
	var faults []*Error
	if !slices.Contains(RollingRates, c.RollingRate) {
		faults = append(faults, Errorf(CodeBadArgument, target+".rollingRate", "rollingRate %.40q is not one of %s",
			c.RollingRate, strings.Join(RollingRates, ", ")))
	}
	seen := map[string]bool{}
	byCode := 0
	for _, one := range c.Collections {
		at := target + ".collections." + one.Name
		switch key := strings.ToLower(one.Name); {
		case !collectionRule.MatchString(one.Name):
			faults = append(faults, Errorf(CodeBadArgument, target+".collections",
				"collection name %.40q is not valid: use up to 64 letters, digits, '-', '_' and '.', beginning with a letter or digit", one.Name))
		case seen[key]:
			faults = append(faults, Errorf(CodeBadArgument, at, "another collection has the same name but for its case"))
		default:
			seen[key] = true
		}
		if !(one.SamplingRate >= 0 && one.SamplingRate <= 1) {
			faults = append(faults, Errorf(CodeBadArgument, at+".samplingRate", "sampling rate %g is not between 0 and 1", one.SamplingRate))
		}
		if one.Enabled && !Reserved(one.Name) {
			byCode++
		}
	}
	if byCode > MaxCollections {
		faults = append(faults, Errorf(CodeBadArgument, target+".collections",
			"%d collections beside %s and %s are enabled; at most %d can be", byCode, CollectionRequest, CollectionResponse, MaxCollections))
	}
	return faults
}
