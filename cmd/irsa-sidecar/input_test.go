package main

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestInputThatDoesNotEndIsReadForAWhile(t *testing.T) {
	for sent, want := range map[string]string{"": "", "{}": "{}"} {
		synctest.Test(t, func(t *testing.T) {
			stdin, pipe := io.Pipe()
			defer pipe.Close()
			go func() {
				if sent != "" {
					io.WriteString(pipe, sent)
				}
			}()
			begun := time.Now()
			text, ended, err := readInput(t.Context(), "-", stdin)
			if string(text) != want || text == nil || ended || err != nil {
				t.Errorf("read %q, ended %v, %v", text, ended, err)
			}
			if took := time.Since(begun); took != inputLimit {
				t.Errorf("after %s", took)
			}
			stdin.Close()
		})
	}
}

func TestInputIsReadToItsEnd(t *testing.T) {
	text, ended, err := readInput(t.Context(), "-", strings.NewReader("{}"))
	if string(text) != "{}" || !ended || err != nil {
		t.Errorf("read %q, ended %v, %v", text, ended, err)
	}
	if _, _, err := readInput(t.Context(), filepath.Join(t.TempDir(), "none"), nil); err == nil || !strings.Contains(err.Error(), "cannot be read: no such file") {
		t.Errorf("%v", err)
	}
}
