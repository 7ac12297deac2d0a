package main

// files are the configuration files that are watched, and read again when they change.
type files struct {
	config  file // AWS_CONFIG_FILE
	roleARN file // IRSA_SIDECAR_ROLE_ARN_FILE
}

// A file is what was read from a path. An empty path is no file; err continues a sentence that begins with the path.
type file struct {
	path string
	text []byte
	err  error
}

// readFiles reads the files that an environment names.
func readFiles(*environment) files { return files{} }
