package online

// Names under which the two keys of an endpoint are kept as secrets of its UID.
const (
	SecretPrimaryKey   = "primaryKey"
	SecretSecondaryKey = "secondaryKey"
)
