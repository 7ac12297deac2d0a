package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheMemoryLimitIsTheLeastOfAllAroundUs(t *testing.T) {
	for name, row := range map[string]struct {
		self  string
		files map[string]string
		want  int64
	}{
		"a container with a namespace of its own": {"0::/\n", map[string]string{"memory.max": "50331648\n"}, 48 << 20},
		"without a limit":                         {"0::/\n", map[string]string{"memory.max": "max\n"}, 0},
		"the node's own path, of version 2": {"0::/kubepods/pod1/c1\n", map[string]string{
			"kubepods/pod1/c1/memory.max": "50331648\n", "kubepods/pod1/memory.max": "max\n", "memory.max": "max\n"}, 48 << 20},
		"the Pod's limit is less than the container's": {"0::/kubepods/pod1/c1\n", map[string]string{
			"kubepods/pod1/c1/memory.max": "50331648\n", "kubepods/pod1/memory.max": "25165824\n"}, 24 << 20},
		"the node's path, of which we see our own part": {"0::/kubepods/pod1/c1\n", map[string]string{"memory.max": "50331648\n"}, 48 << 20},
		"version 1": {"4:memory:/pod1\n1:cpu:/\n0::/\n", map[string]string{
			"memory/pod1/memory.limit_in_bytes": "50331648\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 48 << 20},
		"version 1 without a limit":    {"4:memory:/\n", map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"a controller of another name": {"4:cpu:/pod1\n", map[string]string{"memory/pod1/memory.limit_in_bytes": "1\n"}, 0},
		"noise":                        {"x\n::\n0::/../../..\n", map[string]string{"memory.max": "-5\n"}, 0},
		"a word":                       {"0::/\n", map[string]string{"memory.max": "plenty\n"}, 0},
		"nothing at all":               {"", nil, 0},
	} {
		root := t.TempDir()
		for file, text := range map[string]string{"self": row.self} {
			write(t, filepath.Join(root, file), text)
		}
		for file, text := range row.files {
			write(t, filepath.Join(root, file), text)
		}
		if got := memoryLimit(root, filepath.Join(root, "self")); got != row.want {
			t.Errorf("%s: %d, want %d", name, got, row.want)
		}
	}
	if got := memoryLimit(t.TempDir(), "/nowhere"); got != 0 {
		t.Errorf("where nothing can be read: %d", got)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
