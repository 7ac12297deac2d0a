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

// NewMemoryGroup makes a cgroup, of version 1 or 2.
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
	if g.limit != "memory.max" { // version 1 counts the memory of sockets only if they have their own limit
		err = errors.Join(err, os.WriteFile(filepath.Join(g.dir, tcpLimit), []byte(strconv.Itoa(bytes)), 0))
	}
	if err != nil {
		g.Remove()
		return nil, err
	}
	return g, nil
}

const tcpLimit, tcpPeak = "memory.kmem.tcp.limit_in_bytes", "memory.kmem.tcp.max_usage_in_bytes"

// read reads a number from the file of version 1 or 2.
func (g *MemoryGroup) read(v1, v2 string) string {
	name := v1
	if g.limit == "memory.max" {
		name = v2
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, name))
	return string(text)
}

// Refused returns how often the limit was reached; 0 for a nil group.
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

// Peak returns the most memory that was used, in MiB. In version 1 it may be too high, because sockets are counted
// separately.
func (g *MemoryGroup) Peak() float64 {
	bytes, sockets := 0, 0
	fmt.Sscan(g.read("memory.max_usage_in_bytes", "memory.peak"), &bytes)
	fmt.Sscan(g.read(tcpPeak, ""), &sockets)
	return float64(bytes+sockets) / (1 << 20)
}

func (g *MemoryGroup) set(limit int) error {
	return os.WriteFile(filepath.Join(g.dir, g.limit), []byte(strconv.Itoa(limit)), 0)
}

// Ease sets the limit of a Pod.
func (g *MemoryGroup) Ease() error { return g.set(g.bytes) }

// Start starts a process in the group; a nil group has no effect.
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
	OnThread(func() { // a child is in the cgroup of the thread that made it
		if err = os.WriteFile(filepath.Join(g.dir, "tasks"), []byte(strconv.Itoa(syscall.Gettid())), 0); err == nil {
			err = cmd.Start()
		}
	})
	return err
}

// Squeeze lowers the limit as far as the kernel allows. In version 2, processes that need more are killed.
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
