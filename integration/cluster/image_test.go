//go:build cluster

package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
)

// dockerArchive is an image in the format of `docker save`, which every container engine reads.
func dockerArchive(t *testing.T, name, config string, files []file) []byte {
	t.Helper()
	layer := tarball(t, files)
	description := fmt.Appendf(nil, `{"architecture": "amd64", "os": "linux", "config": %s, "rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`,
		config, sha256.Sum256(layer))
	return tarball(t, []file{
		{name: "config.json", mode: 0o644, data: description},
		{name: "layer.tar", mode: 0o644, data: layer},
		{name: "manifest.json", mode: 0o644, data: fmt.Appendf(nil, `[{"Config": "config.json", "RepoTags": [%q], "Layers": ["layer.tar"]}]`, name)},
	})
}

func tarball(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Gid: f.gid, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		switch {
		case f.to != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.to
		case f.name[len(f.name)-1] == '/':
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
