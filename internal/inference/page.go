package inference

// PageSize is the size of a worker's status page in bytes.
const PageSize = 4096
