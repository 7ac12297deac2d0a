package regular_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

// What is configured as a file can be anything. Each error continues a sentence that begins with the path.
func ExampleRead() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("a token"), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	content, _, err := regular.Read(filepath.Join(dir, "token"), 100)
	fmt.Printf("%s, %v\n", content, err)
	_, _, err = regular.Read(filepath.Join(dir, "token"), 3)
	fmt.Println("token", err)
	_, _, err = regular.Read(dir, 100)
	fmt.Println("dir", err)
	_, _, err = regular.Read(filepath.Join(dir, "nothing"), 100)
	fmt.Println("nothing", err, errors.Is(err, fs.ErrNotExist))
	// Output:
	// a token, <nil>
	// token is longer than 3 bytes
	// dir is a directory, not a file
	// nothing cannot be read: no such file or directory true
}
