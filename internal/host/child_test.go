package host

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// childMain is the supervised side of the tests.
func childMain(args []string) int {
	switch args[0] {
	case "allocate": // touches N MiB
		n, _ := strconv.Atoi(args[1])
		block := make([]byte, n<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		fmt.Println("allocated", len(block))
		return 0
	case "page": // writes the status page, and tries to shrink it
		page := make([]byte, 4)
		if _, err := syscall.Pread(4, page, 0); err != nil {
			fmt.Println("read page:", err)
			return 1
		}
		if _, err := syscall.Pwrite(4, []byte("hello"), 0); err != nil {
			fmt.Println("write page:", err)
			return 1
		}
		fmt.Println("truncate:", syscall.Ftruncate(4, 0))
		return 0
	case "accept": // answers one connection on descriptor 3
		fd, _, err := syscall.Accept(3)
		if err != nil {
			fmt.Println("accept:", err)
			return 1
		}
		_, _ = syscall.Write(fd, []byte("hello\n"))
		return 0
	case "flood": // prints N bytes in lines of 100
		n, _ := strconv.Atoi(args[1])
		block := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 100))
		for ; n > 0; n -= len(block) {
			if _, err := os.Stdout.Write(block); err != nil {
				return 1
			}
		}
		fmt.Println("the end")
		return 0
	case "descriptors": // lists what it inherited
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for _, e := range entries {
			if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
				fmt.Println(e.Name(), target)
			}
		}
		return 0
	case "ask": // attaches to a control socket and prints the answer
		return askInfo(args[1])
	}
	return 2
}

func askInfo(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	_ = json.NewEncoder(conn).Encode(request{Verb: verbAttach})
	b := make([]byte, 4096)
	n, _ := conn.Read(b) // nothing, when it is refused
	_, _ = os.Stdout.Write(b[:n])
	return 0
}
