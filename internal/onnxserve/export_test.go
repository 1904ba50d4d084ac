package onnxserve

// Held is the memory that is kept for the next request.
func (e *Executor) Held() int {
	n := cap(e.out)
	for _, t := range e.inputs {
		n += cap(t.data) + 8*cap(t.ends)
	}
	return n
}

// FailedJoined says whether the model is known to fail on joined rows.
func (e *Executor) FailedJoined() bool { return e.model.rows.want() }
