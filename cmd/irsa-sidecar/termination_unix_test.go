//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func TestTheLastWordsAreLeftForKubernetes(t *testing.T) {
	dir := t.TempDir()
	there := func(name string, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	long := "irsa-sidecar: " + strings.Repeat("ä", maxTerminationMessage) + "\n"
	path := there("log", strings.Repeat("what was there before\n", 1000), 0o666)
	for _, text := range []string{"irsa-sidecar: no credentials\n", long} {
		leaveMessage(path, text)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		left := string(raw)
		if !strings.HasPrefix(text, left) || len(left) < min(len(text), maxTerminationMessage-utf8.UTFMax) || len(left) > maxTerminationMessage || !utf8.ValidString(left) {
			t.Errorf("left %d bytes of %d: %.100q", len(left), len(text), left)
		}
	}

	leaveMessage(filepath.Join(dir, "missing"), "x")
	if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
		t.Error("it made the file")
	}
	leaveMessage(dir, "x")
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o666); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	leaveMessage(pipe, "x") // which nobody reads
	if took := time.Since(began); took >= flushWait {
		t.Errorf("it waited %s for a reader", took)
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	leaveMessage(pipe, "x")
	if n, err := reader.Read(make([]byte, 1)); n > 0 {
		t.Errorf("it wrote to a pipe: %v", err)
	}
}

func TestTheCommandsThatEndAContainer(t *testing.T) {
	for args, want := range map[string]bool{
		"": true, "serve": true, "--log-level debug": true, "wait --timeout 1s": true, "install /x": true,
		"healthcheck": false, "status": false, "shutdown": false, "reload": false, "doctor": false, "credentials": false, "foo": false, "help": false, "-h": false, "--version": false,
	} {
		if got := endsContainer(strings.Fields(args)); got != want {
			t.Errorf("%q: %v, want %v", args, got, want)
		}
	}
}
