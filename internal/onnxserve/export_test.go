package onnxserve

// Held is the memory that is kept for the next request.
func (e *Executor) Held() int {
	n := cap(e.out)
	for _, t := range e.inputs {
		n += cap(t.data) + 8*cap(t.ends)
	}
	return n
}
