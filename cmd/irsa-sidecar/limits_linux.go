package main

import (
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// memoryLimit returns the memory limit of this container in bytes; zero if there is none, or it is unknown. root is where
// cgroups of either version are mounted. self lists the cgroups of this process, cgroups(7): in a container, the path in it
// is mostly relative to the container, but may be relative to the node.
func memoryLimit(root, self string) (limit int64) {
	least := func(file string) {
		text, err := os.ReadFile(file)
		if err != nil {
			return
		}
		// For no limit, version 1 has a huge number, version 2 a word.
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

// limits returns the memory limit in bytes, zero for none, and the limit of file descriptors.
func limits() (memory int64, descriptors uint64) {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil {
		files.Cur = math.MaxInt64
	}
	return memoryLimit("/sys/fs/cgroup", "/proc/self/cgroup"), files.Cur
}
