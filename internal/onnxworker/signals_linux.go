package onnxworker

import "golang.org/x/sys/unix"

// blockSignals blocks every signal on this thread until the function that it gives is called.
func blockSignals() func() {
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return func() {}
	}
	return func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) } // what worked before works again
}
