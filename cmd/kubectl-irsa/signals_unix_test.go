//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets a test start this program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("IRSA_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// kubectl is asked to end, so that it can end what it runs itself, before it is killed.
func TestKubectlIsAskedToEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		if reader, err := os.Open(fifo); err == nil { // it is ready
			reader.Close()
		}
		cancel()
	}()
	output, err := execute(ctx, nil, "/bin/sh", "-c", `trap 'echo asked; exit 0' INT; : > `+fifo+`; while :; do :; done`)
	if string(output) != "asked\n" || !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", output, err)
	}
}

// A signal ends the program and the kubectl that it waits for.
func TestASignalEndsItAndKubectl(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		dir := t.TempDir()
		fifo := filepath.Join(dir, "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		// kubectl says who it is, and never ends.
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte("#!/bin/sh\necho $$ > "+fifo+"\nexec sleep 1000\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "doctor", "shop/cart")
		cmd.Env = append(os.Environ(), "IRSA_TEST_MAIN=1", "PATH="+dir+":"+os.Getenv("PATH"))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		reader, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(reader).ReadString('\n')
		reader.Close()
		child, convertErr := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || convertErr != nil {
			t.Fatalf("kubectl said %q: %v", line, err)
		}
		begun := time.Now()
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "kubectl irsa: interrupted\n") {
			t.Errorf("%v: exit code %d, %q", signal, code, stderr.String())
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%v: it took %s", signal, took)
		}
		if err := syscall.Kill(child, 0); err != syscall.ESRCH {
			t.Errorf("%v: kubectl is still there: %v", signal, err)
			syscall.Kill(child, syscall.SIGKILL)
		}
	}
}
