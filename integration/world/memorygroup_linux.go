package world

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// MemoryGroup is a cgroup that limits memory.
type MemoryGroup struct {
	dir, limit string
	bytes      int // of memory, sockets included
}

// NewMemoryGroup makes one, of version 1 or 2.
func NewMemoryGroup(bytes int) (*MemoryGroup, error) {
	name := "irsa-sidecar-test-" + strconv.Itoa(os.Getpid())
	g := &MemoryGroup{filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes", bytes}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		g = &MemoryGroup{filepath.Join("/sys/fs/cgroup", name), "memory.max", bytes}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	err := g.Ease()
	if g.limit != "memory.max" { // version 1 counts what sockets hold where they have a limit of their own
		err = errors.Join(err, os.WriteFile(filepath.Join(g.dir, tcpLimit), []byte(strconv.Itoa(bytes)), 0))
	}
	if err != nil {
		g.Remove()
		return nil, err
	}
	return g, nil
}

const tcpLimit, tcpPeak = "memory.kmem.tcp.limit_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"

// read reads a figure, from the file of version 1 or of version 2.
func (g *MemoryGroup) read(v1, v2 string) string {
	name := v1
	if g.limit == "memory.max" {
		name = v2
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, name))
	return string(text)
}

// Refused is how often the limit has been met. A nil group has none.
func (g *MemoryGroup) Refused() (n int) {
	if g == nil {
		return 0
	}
	text := g.read("memory.failcnt", "memory.events")
	if _, after, found := strings.Cut(text, "\nmax "); found {
		text = after
	}
	fmt.Sscan(text, &n)
	return n
}

// Peak is the most memory that there has been, in MiB. In version 1 it is no less than that: sockets are counted apart.
func (g *MemoryGroup) Peak() float64 {
	bytes, sockets := 0, 0
	fmt.Sscan(g.read("memory.max_usage_in_bytes", "memory.peak"), &bytes)
	fmt.Sscan(g.read(tcpPeak, ""), &sockets)
	return float64(bytes+sockets) / (1 << 20)
}

func (g *MemoryGroup) set(limit int) error {
	return os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(limit)), 0)
}

// Ease gives it what a Pod has.
func (g *MemoryGroup) Ease() error { return g.set(g.bytes) }

// Start starts a process inside, so that all that it has counts. A nil group is none.
func (g *MemoryGroup) Start(cmd *exec.Cmd) (err error) {
	switch {
	case g == nil:
		return cmd.Start()
	case g.limit == "memory.max":
		dir, err := os.Open(g.dir)
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		return cmd.Start()
	}
	OnThread(func() { // a child is where the thread is that made it
		if err = os.WriteFile(filepath.Join(g.dir, "tasks"), []byte(strconv.Itoa(syscall.Gettid())), 0); err == nil {
			err = cmd.Start()
		}
	})
	return err
}

// Squeeze takes the limit down as far as the kernel lets us. Version 2 has it that whoever needs more ends.
func (g *MemoryGroup) Squeeze() {
	for limit := g.bytes; limit > 4<<20; limit -= 256 << 10 {
		if g.set(limit) != nil {
			return
		}
	}
}

// Remove deletes the group, whose processes must have ended.
func (g *MemoryGroup) Remove() { os.Remove(g.dir) }

// PodMemory is the memory limit of the manifests, in bytes; a crowd may bring the sidecar to two thirds of it.
const PodMemory = 48 << 20
