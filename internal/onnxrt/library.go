package onnxrt

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// apiVersion is the version of the table that is asked for. Later libraries have it too: the table only grows.
const apiVersion = 24

// Indexes into the library's table of functions, OrtApi.
const (
	fnGetErrorCode                        = 1
	fnGetErrorMessage                     = 2
	fnCreateEnv                           = 3
	fnCreateSession                       = 7
	fnRun                                 = 9
	fnCreateSessionOptions                = 10
	fnSetSessionExecutionMode             = 13
	fnSetSessionGraphOptimizationLevel    = 23
	fnSetIntraOpNumThreads                = 24
	fnSetInterOpNumThreads                = 25
	fnSessionGetInputCount                = 30
	fnSessionGetOutputCount               = 31
	fnSessionGetInputTypeInfo             = 33
	fnSessionGetOutputTypeInfo            = 34
	fnSessionGetInputName                 = 36
	fnSessionGetOutputName                = 37
	fnCreateRunOptions                    = 39
	fnRunOptionsSetTerminate              = 46
	fnRunOptionsUnsetTerminate            = 47
	fnCreateTensorAsOrtValue              = 48
	fnCreateTensorWithDataAsOrtValue      = 49
	fnGetTensorMutableData                = 51
	fnGetStringTensorDataLength           = 53
	fnGetStringTensorContent              = 54
	fnCastTypeInfoToTensorInfo            = 55
	fnGetOnnxTypeFromTypeInfo             = 56
	fnGetTensorElementType                = 60
	fnGetDimensionsCount                  = 61
	fnGetDimensions                       = 62
	fnGetSymbolicDimensions               = 63
	fnGetTensorTypeAndShape               = 65
	fnGetValueType                        = 67
	fnCreateCPUMemoryInfo                 = 69
	fnAllocatorFree                       = 76
	fnGetAllocatorWithDefaultOptions      = 78
	fnGetValue                            = 80
	fnGetValueCount                       = 81
	fnReleaseStatus                       = 93
	fnReleaseSession                      = 95
	fnReleaseValue                        = 96
	fnReleaseRunOptions                   = 97
	fnReleaseTypeInfo                     = 98
	fnReleaseTensorTypeAndShapeInfo       = 99
	fnReleaseSessionOptions               = 100
	fnCastTypeInfoToMapTypeInfo           = 103
	fnCastTypeInfoToSequenceTypeInfo      = 104
	fnGetMapKeyType                       = 105
	fnGetMapValueType                     = 106
	fnGetSequenceElementType              = 107
	fnGetResizedStringTensorElementBuffer = 252
	fnTensorTypeAndShapeHasShape          = 390
	fnCount                               = 391
)

// Values of the library's enumerations.
const (
	loggingWarning   = 2
	arenaAllocator   = 1
	memoryDefault    = 0
	executeSerially  = 0
	codeInvalidInput = 2
)

// Library is a loaded ONNX Runtime. It is safe for concurrent use, and stays loaded until the process ends.
type Library struct {
	// Version is what the library says of itself.
	Version string

	fn        [fnCount]uintptr
	env       uintptr
	memory    uintptr // OrtMemoryInfo of the processor's memory
	allocator uintptr
}

// Error is what the library says went wrong.
type Error struct {
	Message string
	// Input says that the library blames what it was given to run on.
	Input bool
}

func (e *Error) Error() string { return e.Message }

// Open loads the library in the file at path. It can be done once in a process.
func Open(path string) (*Library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load ONNX Runtime: %w", err)
	}
	base, err := purego.Dlsym(handle, "OrtGetApiBase")
	if err != nil {
		return nil, fmt.Errorf("load ONNX Runtime: %s is another library: %w", path, err)
	}
	l := &Library{}
	table, _, _ := purego.SyscallN(base)
	entries := unsafe.Slice((**uintptr)(pointer(table)), 2) // GetApi, GetVersionString
	version, _, _ := purego.SyscallN(uintptr(unsafe.Pointer(entries[1])))
	l.Version = text(version)
	api, _, _ := purego.SyscallN(uintptr(unsafe.Pointer(entries[0])), apiVersion)
	if api == 0 {
		return nil, fmt.Errorf("load ONNX Runtime: version %s is too old: it lacks version %d of the interface",
			l.Version, apiVersion)
	}
	copy(l.fn[:], unsafe.Slice((*uintptr)(pointer(api)), fnCount))
	name := cString("portico")
	if err := l.call(fnCreateEnv, loggingWarning, address(name), out(&l.env)); err != nil {
		return nil, fmt.Errorf("start ONNX Runtime: %w", err)
	}
	runtime.KeepAlive(name)
	if err := l.call(fnCreateCPUMemoryInfo, arenaAllocator, memoryDefault, out(&l.memory)); err != nil {
		return nil, fmt.Errorf("start ONNX Runtime: %w", err)
	}
	if err := l.call(fnGetAllocatorWithDefaultOptions, out(&l.allocator)); err != nil {
		return nil, fmt.Errorf("start ONNX Runtime: %w", err)
	}
	return l, nil
}

// call calls a function that gives a status. Memory of Go's among the arguments comes from out and address, and is kept
// reachable by the caller.
func (l *Library) call(fn int, args ...uintptr) error {
	status, _, _ := purego.SyscallN(l.fn[fn], args...)
	if status == 0 {
		return nil
	}
	code, _, _ := purego.SyscallN(l.fn[fnGetErrorCode], status)
	message, _, _ := purego.SyscallN(l.fn[fnGetErrorMessage], status)
	err := &Error{Message: strings.ToValidUTF8(text(message), "\uFFFD"), Input: code == codeInvalidInput}
	l.release(fnReleaseStatus, status)
	return err
}

// release calls a function that gives nothing; of nothing there is nothing to release.
func (l *Library) release(fn int, what uintptr) {
	if what != 0 {
		purego.SyscallN(l.fn[fn], what)
	}
}

// pointer makes an address of the library's memory a pointer. The detour tells vet that no object of Go's is meant.
func pointer(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }

// out is the address of a word that the library is to write.
func out(word *uintptr) uintptr { return escape(unsafe.Pointer(word)) }

// address is that of a slice's first element; never zero, because the library takes no null pointers.
func address[T any](s []T) uintptr {
	if cap(s) == 0 {
		return escape(unsafe.Pointer(&nothing))
	}
	return escape(unsafe.Pointer(unsafe.SliceData(s)))
}

// escape makes an address of Go's memory a number. What it points to is on the heap for that, because stacks move: the
// compiler cannot know that sink is never written.
func escape(p unsafe.Pointer) uintptr {
	if never {
		sink = p
	}
	return uintptr(p)
}

var (
	never   bool
	sink    unsafe.Pointer //nolint:unused // it is what escape is for
	nothing uint64
)

func cString(s string) []byte { return append([]byte(s), 0) }

// text copies a C string.
func text(address uintptr) string {
	if address == 0 {
		return ""
	}
	p := (*byte)(pointer(address))
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
