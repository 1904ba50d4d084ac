package arm

// LocalizedName is a name with the form that people see.
type LocalizedName struct {
	Value          string `json:"value"`
	LocalizedValue string `json:"localizedValue"`
}

// SameName is a LocalizedName whose two forms are equal.
func SameName(s string) LocalizedName { return LocalizedName{Value: s, LocalizedValue: s} }

// MetricsAnswer is what Azure Monitor answers to a query for metrics.
type MetricsAnswer struct {
	Cost           int            `json:"cost"`
	Timespan       string         `json:"timespan"`
	Interval       string         `json:"interval"`
	Namespace      string         `json:"namespace"`
	ResourceRegion string         `json:"resourceregion"`
	Value          []MetricValues `json:"value"`
}

// MetricValues is one metric of a MetricsAnswer.
type MetricValues struct {
	ID                 string         `json:"id"`
	Type               string         `json:"type"`
	Name               LocalizedName  `json:"name"`
	DisplayDescription string         `json:"displayDescription"`
	Unit               string         `json:"unit"`
	ErrorCode          string         `json:"errorCode"`
	Timeseries         []MetricSeries `json:"timeseries"`
}

// MetricSeries is the course of a metric for one combination of dimensions.
type MetricSeries struct {
	MetadataValues []MetricDimension `json:"metadatavalues"`
	Data           []MetricPoint     `json:"data,omitempty"`
}

// MetricDimension is one dimension with its value.
type MetricDimension struct {
	Name  LocalizedName `json:"name"`
	Value string        `json:"value"`
}

// MetricPoint has the aggregations that were asked for, none of them where nothing was observed.
type MetricPoint struct {
	TimeStamp string   `json:"timeStamp"`
	Average   *float64 `json:"average,omitempty"`
	Minimum   *float64 `json:"minimum,omitempty"`
	Maximum   *float64 `json:"maximum,omitempty"`
	Total     *float64 `json:"total,omitempty"`
	Count     *float64 `json:"count,omitempty"`
}

// MetricDefinition describes a metric that a resource has.
type MetricDefinition struct {
	ID                        string               `json:"id"`
	ResourceID                string               `json:"resourceId"`
	Namespace                 string               `json:"namespace"`
	Name                      LocalizedName        `json:"name"`
	DisplayDescription        string               `json:"displayDescription"`
	IsDimensionRequired       bool                 `json:"isDimensionRequired"`
	Unit                      string               `json:"unit"`
	PrimaryAggregationType    string               `json:"primaryAggregationType"`
	SupportedAggregationTypes []string             `json:"supportedAggregationTypes"`
	MetricAvailabilities      []MetricAvailability `json:"metricAvailabilities"`
	Dimensions                []LocalizedName      `json:"dimensions,omitempty"`
}

// MetricAvailability says for how long points of an interval are kept.
type MetricAvailability struct {
	TimeGrain string `json:"timeGrain"`
	Retention string `json:"retention"`
}

// MetricNamespace is a group of metrics.
type MetricNamespace struct {
	ID             string                    `json:"id"`
	Type           string                    `json:"type"`
	Name           string                    `json:"name"`
	Classification string                    `json:"classification"`
	Properties     MetricNamespaceProperties `json:"properties"`
}

// MetricNamespaceProperties repeats the name.
type MetricNamespaceProperties struct {
	MetricNamespaceName string `json:"metricNamespaceName"`
}

// Types of Azure Monitor's resources.
const (
	MetricType          = "Microsoft.Insights/metrics"
	MetricNamespaceType = "Microsoft.Insights/metricNamespaces"
)

// Event is one entry of Azure's activity log.
type Event struct {
	Authorization        EventAuthorization `json:"authorization"`
	Caller               string             `json:"caller"`
	Category             LocalizedName      `json:"category"`
	Claims               map[string]string  `json:"claims"`
	CorrelationID        string             `json:"correlationId"`
	Description          string             `json:"description"`
	EventDataID          string             `json:"eventDataId"`
	EventName            LocalizedName      `json:"eventName"`
	EventTimestamp       string             `json:"eventTimestamp"`
	HTTPRequest          *EventRequest      `json:"httpRequest"`
	ID                   string             `json:"id"`
	Level                string             `json:"level"`
	OperationID          string             `json:"operationId"`
	OperationName        LocalizedName      `json:"operationName"`
	Properties           map[string]string  `json:"properties"`
	ResourceGroupName    string             `json:"resourceGroupName"`
	ResourceID           string             `json:"resourceId"`
	ResourceProviderName LocalizedName      `json:"resourceProviderName"`
	ResourceType         LocalizedName      `json:"resourceType"`
	Status               LocalizedName      `json:"status"`
	SubStatus            LocalizedName      `json:"subStatus"`
	SubmissionTimestamp  string             `json:"submissionTimestamp"`
	SubscriptionID       string             `json:"subscriptionId"`
	TenantID             string             `json:"tenantId"`
}

// EventAuthorization says what was asked of which scope.
type EventAuthorization struct {
	Action string `json:"action"`
	Scope  string `json:"scope"`
}

// EventRequest is where a command came from.
type EventRequest struct {
	ClientRequestID string `json:"clientRequestId"`
	ClientIPAddress string `json:"clientIpAddress"`
	Method          string `json:"method"`
}
