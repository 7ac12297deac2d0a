package main

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// memoryLimit returns how much memory the kernel lets this container have, in bytes; zero where it sets no limit, or
// does not tell. root is where cgroups are mounted, of either version, and self says in which of them we are,
// cgroups(7): in a container the path in it is most often its own root, but may be the node's.
func memoryLimit(root, self string) (limit int64) {
	least := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		// Version 1 says "no limit" with a number that no machine has, version 2 with a word.
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && n < 1<<50 && (limit == 0 || n < limit) {
			limit = n
		}
	}
	text, _ := os.ReadFile(self)
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := path.Join(root, "memory"), "memory.limit_in_bytes"
		switch {
		case parts[1] == "":
			mount, file = root, "memory.max"
		case parts[1] != "memory":
			continue
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			least(path.Join(mount, dir, file))
			if dir == "/" {
				break
			}
		}
	}
	return limit
}

// limits returns the memory limit in bytes, zero for none, and how many file descriptors there may be.
func limits() (memory int64, descriptors uint64) {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		files.Cur = math.MaxInt64
	}
	return memoryLimit("/sys/fs/cgroup", "/proc/self/cgroup"), files.Cur
}
