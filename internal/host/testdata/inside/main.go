// Inside is a program for root file systems of tests: it tells what it sees, or serves.
package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "look":
		look()
	case "serve":
		serve(os.Args[2])
	case "dial":
		resolver, _ := os.ReadFile("/etc/resolv.conf")
		fmt.Printf("resolver %s", resolver)
		for _, address := range os.Args[2:] {
			conn, err := net.DialTimeout("tcp", address, 10*time.Second) //nolint:noctx // it ends
			say("dial "+address, err)
			if err == nil {
				conn.Close()
			}
		}
		fmt.Println("all are tried")
		time.Sleep(time.Hour) // until it is ended
	}
}

func serve(port string) {
	l, err := net.Listen("tcp", ":"+port) //nolint:noctx,gosec // its network is its own
	if err != nil {
		panic(err)
	}
	name, _ := os.Hostname()
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(conn, "this is %s", name)
		conn.Close()
	}
}

func look() {
	groups, _ := os.Getgroups()
	fmt.Println("ids", os.Getuid(), os.Getgid(), groups)
	name, _ := os.Hostname()
	fmt.Println("hostname", name)
	for what, path := range map[string]string{"model": "/var/models/m/1/words", "file": "/data/file"} {
		text, err := os.ReadFile(path)
		fmt.Println(what, string(text))
		if err != nil {
			fmt.Println(err)
		}
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		fmt.Println(strings.Join(strings.Fields(strings.Replace(line, ":", " ", 1)), " "))
	}
	for _, dir := range []string{"/", "/etc", "/data", "/tmp", "/dev/shm", "/var/models/m/1"} {
		say("write "+dir, os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o600))
	}
	out, err := os.OpenFile("/dev/stdout", os.O_WRONLY|os.O_APPEND, 0)
	say("write /dev/stdout", err)
	if err == nil {
		fmt.Fprintln(out, "by name")
	}
	say("device /dev/null", os.WriteFile("/dev/null", []byte("x"), 0))
	pids, _ := filepath.Glob("/proc/[0-9]*")
	fmt.Println("processes", len(pids))
	interfaces, _ := net.Interfaces()
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	fmt.Println("interfaces", names)
	say("mount", syscall.Mount("x", "/tmp", "tmpfs", 0, ""))
	say("device node", syscall.Mknod("/tmp/null", syscall.S_IFCHR|0o666, 1<<8|3))
	hosts, _ := os.ReadFile("/etc/hosts")
	fmt.Printf("hosts %s", hosts)
	var st syscall.Stat_t
	if err := syscall.Stat("/", &st); err == nil {
		fmt.Println("owner of /", st.Uid)
	}
	for _, path := range []string{"/usr/bin", "/root/.bashrc", "/sys/kernel", "/run", "/home"} {
		if _, err := os.Stat(path); err == nil {
			fmt.Println("outside", path)
		}
	}
}

func say(what string, err error) {
	if err != nil {
		fmt.Println(what, "refused")
		return
	}
	fmt.Println(what, "ok")
}
