package onnxrt

import (
	"fmt"
	"runtime"

	"github.com/ebitengine/purego"
)

// Optimization is how much the library may change the graph before it runs it.
type Optimization int

// The levels, numbered as in the library.
const (
	OptimizeNone     Optimization = 0
	OptimizeBasic    Optimization = 1
	OptimizeExtended Optimization = 2
	OptimizeAll      Optimization = 99
)

// Options are those of a session.
type Options struct {
	Threads      int // that one run may use; at least 1
	Optimization Optimization
}

// Session is a loaded model. Its runners may be used at the same time, each by one goroutine.
type Session struct {
	Inputs, Outputs []Info

	lib                     *Library
	handle                  uintptr
	inputNames, outputNames []uintptr // C strings in names
	names                   [][]byte
}

// Load reads the model in the file at path.
func (l *Library) Load(path string, o Options) (*Session, error) {
	s := &Session{lib: l}
	options := new(uintptr)
	if err := l.call(fnCreateSessionOptions, out(options)); err != nil {
		return nil, err
	}
	defer l.release(fnReleaseSessionOptions, *options)
	for _, set := range [...]struct {
		fn    int
		value uintptr
	}{
		{fnSetIntraOpNumThreads, uintptr(o.Threads)}, {fnSetInterOpNumThreads, 1},
		{fnSetSessionExecutionMode, executeSerially}, {fnSetSessionGraphOptimizationLevel, uintptr(o.Optimization)},
	} {
		if err := l.call(set.fn, *options, set.value); err != nil {
			return nil, err
		}
	}
	file := cString(path)
	err := l.call(fnCreateSession, l.env, address(file), *options, out(&s.handle))
	runtime.KeepAlive(file)
	if err != nil {
		return nil, err
	}
	if err := s.describe(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close releases the session. Its runners must have been closed.
func (s *Session) Close() { s.lib.release(fnReleaseSession, s.handle) }

func (s *Session) describe() error {
	for _, side := range [...]struct {
		what                string
		count, name, typeOf int
		infos               *[]Info
		names               *[]uintptr
	}{
		{"input", fnSessionGetInputCount, fnSessionGetInputName, fnSessionGetInputTypeInfo, &s.Inputs, &s.inputNames},
		{"output", fnSessionGetOutputCount, fnSessionGetOutputName, fnSessionGetOutputTypeInfo, &s.Outputs, &s.outputNames},
	} {
		n := new(uintptr)
		if err := s.lib.call(side.count, s.handle, out(n)); err != nil {
			return err
		}
		for i := range *n {
			name, typeInfo := new(uintptr), new(uintptr)
			if err := s.lib.call(side.name, s.handle, i, s.lib.allocator, out(name)); err != nil {
				return err
			}
			own := cString(text(*name))
			if err := s.lib.call(fnAllocatorFree, s.lib.allocator, *name); err != nil {
				return err
			}
			label := string(own[:len(own)-1])
			if err := s.lib.call(side.typeOf, s.handle, i, out(typeInfo)); err != nil {
				return err
			}
			info, err := s.lib.describe(*typeInfo)
			if err != nil {
				return fmt.Errorf("the %s %q %w", side.what, label, err)
			}
			info.Name = label
			*side.infos = append(*side.infos, *info)
			*side.names = append(*side.names, address(own))
			s.names = append(s.names, own)
		}
	}
	return nil
}

// ask calls a function that gives a value.
func (l *Library) ask(fn int, of uintptr) uintptr {
	value, _, _ := purego.SyscallN(l.fn[fn], of)
	return value
}
