package host

import "os"

// initName is what the first process of the namespace is called.
const initName = "portico-host-init"

// enclosure is the process namespace that holds what the supervisor starts; see contain.
type enclosure struct {
	first    *child   // the namespace's first process, nil if it was not started
	lifeline *os.File // its end of the supervisor's life
	proc     bool     // the first process has mounted the namespace's own /proc, for itself alone
}

// died tells that the namespace is gone; never, without one.
func (e *enclosure) died() <-chan death {
	if e == nil || e.first == nil {
		return nil
	}
	return e.first.died
}

// close ends the namespace with all that is in it, and waits for that.
func (e *enclosure) close() {
	if e == nil {
		return
	}
	_ = e.lifeline.Close()
	if e.first != nil {
		d := <-e.first.died // it ends when the lifeline does
		e.first.died <- d
	}
}
