package arm

// CostQuery is the body of a query of Microsoft.CostManagement.
type CostQuery struct {
	Type       string       `json:"type"`
	Timeframe  string       `json:"timeframe"`
	TimePeriod *CostPeriod  `json:"timePeriod"`
	Dataset    *CostDataset `json:"dataset"`
}

// CostPeriod is the period of the time frame Custom, both days included.
type CostPeriod struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// CostDataset says what is summed and how it is told apart.
type CostDataset struct {
	Granularity   string                     `json:"granularity"`
	Configuration *CostConfiguration         `json:"configuration"`
	Aggregation   map[string]CostAggregation `json:"aggregation"`
	Grouping      []CostGrouping             `json:"grouping"`
	Filter        *CostFilter                `json:"filter"`
	Sorting       []CostSorting              `json:"sorting"`
}

// CostConfiguration names columns of the raw usage records, which do not exist here.
type CostConfiguration struct {
	Columns Refused `json:"columns,omitzero"`
}

// CostAggregation is one sum.
type CostAggregation struct {
	Name     string `json:"name"`
	Function string `json:"function"`
}

// CostGrouping is a dimension or a tag that lines are told apart by.
type CostGrouping struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

// CostSorting orders the lines.
type CostSorting struct {
	Direction string `json:"direction"`
	Name      string `json:"name"`
}

// CostFilter is one node of a filter: exactly one of its members is set.
type CostFilter struct {
	And        []*CostFilter   `json:"and"`
	Or         []*CostFilter   `json:"or"`
	Not        Refused         `json:"not,omitzero"`
	Dimensions *CostComparison `json:"dimensions"`
	Tags       *CostComparison `json:"tags"`
	// Dimension and Tag are what versions before 2019-11-01 wrote.
	Dimension *CostComparison `json:"dimension"`
	Tag       *CostComparison `json:"tag"`
}

// CostComparison compares a dimension or a tag. Documentation has the form with one value and no operator; the
// Python SDK up to 4.0.1 drops that value and sends the name alone.
type CostComparison struct {
	Name     string   `json:"name"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
	Value    string   `json:"value"`
}

// CostResult is the answer to a CostQuery.
type CostResult struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Location   *string              `json:"location"`
	SKU        *string              `json:"sku"`
	ETag       *string              `json:"eTag"`
	Properties CostResultProperties `json:"properties"`
}

// CostResultProperties are columns and rows; each row has a value for each column.
type CostResultProperties struct {
	NextLink *string      `json:"nextLink"`
	Columns  []CostColumn `json:"columns"`
	Rows     [][]any      `json:"rows"`
}

// CostColumn is one column: Number, String or Datetime.
type CostColumn struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// CostResultType is the type member of a CostResult.
const CostResultType = "Microsoft.CostManagement/query"
