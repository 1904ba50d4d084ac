package api

import (
	"encoding/base64"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"portico/internal/artifact"
)

// listing is the answer of List Blobs.
type listing struct {
	XMLName    xml.Name   `xml:"EnumerationResults"`
	Service    string     `xml:"ServiceEndpoint,attr"`
	Container  string     `xml:"ContainerName,attr"`
	Prefix     string     `xml:"Prefix,omitempty"`
	Marker     string     `xml:"Marker,omitempty"`
	MaxResults int        `xml:"MaxResults,omitempty"`
	Delimiter  string     `xml:"Delimiter,omitempty"`
	Blobs      listedRefs `xml:"Blobs"`
	NextMarker string     `xml:"NextMarker"`
}

type listedRefs struct {
	Blobs    []listedBlob   `xml:"Blob"`
	Prefixes []listedPrefix `xml:"BlobPrefix"`
}

type listedPrefix struct {
	Name string `xml:"Name"`
}

type listedBlob struct {
	Name       string           `xml:"Name"`
	Properties listedProperties `xml:"Properties"`
	Metadata   *listedMetadata  `xml:"Metadata"`
}

type listedProperties struct {
	CreationTime  string `xml:"Creation-Time"`
	LastModified  string `xml:"Last-Modified"`
	ETag          string `xml:"Etag"`
	ContentLength int64  `xml:"Content-Length"`
	ContentType   string `xml:"Content-Type"`
	ContentMD5    string `xml:"Content-MD5,omitempty"`
	BlobType      string `xml:"BlobType"`
}

type listedMetadata struct {
	Pairs []metadataPair
}

type metadataPair struct {
	XMLName xml.Name
	Value   string `xml:",chardata"`
}

// list answers List Blobs: names in order, those with a delimiter after the prefix folded into one entry.
func (b *blobCall) list(container string, q url.Values) error {
	prefix, delimiter := q.Get("prefix"), q.Get("delimiter")
	if !b.bearer && !b.grant.Allows(container, "l") {
		return &blobError{http.StatusForbidden, "AuthorizationPermissionMismatch",
			"the signature does not allow listing this container"}
	}
	most := maxBlobPage
	if text := q.Get("maxresults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return &blobError{http.StatusBadRequest, "OutOfRangeQueryParameterValue", "maxresults must be at least 1"}
		}
		most = min(n, maxBlobPage)
	}
	out := listing{Service: b.blobBase(), Container: container, Prefix: prefix, Marker: q.Get("marker"),
		Delimiter: delimiter}
	after := ""
	if m := q.Get("marker"); m != "" {
		name, bad := base64.RawURLEncoding.DecodeString(m)
		if bad != nil {
			return &blobError{http.StatusBadRequest, "InvalidQueryParameterValue",
				"the marker is not one that a listing gave"}
		}
		after = container + "/" + string(name)
	}
	for n := 0; n < most; n++ {
		next := b.blobs.List(container+"/"+prefix, after, 1)
		if len(next) == 0 {
			return b.xml(http.StatusOK, out)
		}
		name := strings.TrimPrefix(next[0].Name, container+"/")
		folder, folded := fold(name, prefix, delimiter)
		if folded {
			out.Blobs.Prefixes = append(out.Blobs.Prefixes, listedPrefix{folder})
			after = container + "/" + folder + "\U0010FFFF" // after every name in the folder
			continue
		}
		out.Blobs.Blobs = append(out.Blobs.Blobs, listed(name, next[0], strings.Contains(q.Get("include"), "metadata")))
		after = next[0].Name
	}
	if len(b.blobs.List(container+"/"+prefix, after, 1)) > 0 {
		out.NextMarker = base64.RawURLEncoding.EncodeToString([]byte(strings.TrimPrefix(after, container+"/")))
	}
	return b.xml(http.StatusOK, out)
}

// fold gives the part of a name up to the first delimiter after the prefix.
func fold(name, prefix, delimiter string) (string, bool) {
	if delimiter == "" {
		return "", false
	}
	i := strings.Index(name[len(prefix):], delimiter)
	if i < 0 {
		return "", false
	}
	return name[:len(prefix)+i+len(delimiter)], true
}

func listed(name string, blob artifact.Blob, metadata bool) listedBlob {
	modified := blob.Modified.UTC().Format(http.TimeFormat)
	out := listedBlob{Name: name, Properties: listedProperties{CreationTime: modified, LastModified: modified,
		ETag: strings.Trim(blob.ETag, `"`), ContentLength: blob.Size, ContentType: blob.ContentType, BlobType: "BlockBlob"}}
	if len(blob.MD5) > 0 {
		out.Properties.ContentMD5 = base64.StdEncoding.EncodeToString(blob.MD5)
	}
	if metadata && len(blob.Metadata) > 0 {
		out.Metadata = &listedMetadata{}
		for k, v := range blob.Metadata {
			out.Metadata.Pairs = append(out.Metadata.Pairs, metadataPair{XMLName: xml.Name{Local: k}, Value: v})
		}
	}
	return out
}
