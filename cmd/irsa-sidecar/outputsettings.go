package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	outputVariable = "IRSA_SIDECAR_CREDENTIALS_FILE"
	outputKey      = "irsa_sidecar_credentials_file"

	fileModeVariable   = outputVariable + "_MODE"
	fileRemoveVariable = outputVariable + "_REMOVE"
	fileDiskVariable   = outputVariable + "_ON_DISK"

	processVariable = "IRSA_SIDECAR_PROCESS_FILE"
)

// fileOutputs returns the files to write: the shared one, with the profiles that every caller of the environment's gets, and
// one for each profile that names its own.
func (p *parser) fileOutputs(all []*profile) (outputs []fileOutput) {
	template := fileOutput{
		mode:   p.outputMode(),
		remove: p.flag(fileRemoveVariable, p.FileRemove),
		place:  place{onDisk: p.flag(fileDiskVariable, p.FileOnDisk), diskVariable: fileDiskVariable},
	}
	paths := p.namedPaths(all)
	at := func(path string, named where, sections []fileSection) {
		if path == "" || !p.outputPath(named, path, paths) {
			return
		}
		o := template
		o.path, o.at, o.sections = path, named, sections
		outputs = append(outputs, o)
	}
	var shared []fileSection
	for _, one := range all {
		if !one.hidden && one.access == p.shared && one.file == "" {
			shared = append(shared, fileSection{one.name, one.name})
		}
	}
	at(p.CredentialsFile, where{variable: outputVariable}, shared)
	for _, one := range all {
		if one.hidden {
			continue
		}
		// Its only reader may choose no profile, or this one by its name.
		sections := []fileSection{{defaultProfile, one.name}}
		if one.name != defaultProfile {
			sections = append(sections, fileSection{one.name, one.name})
		}
		at(one.file, one.fileAt, sections)
	}
	if p.ProcessFile != "" && p.outputPath(where{variable: processVariable}, p.ProcessFile, paths) {
		outputs = append(outputs, p.processOutput(all))
	}
	p.withoutFiles(all, template)
	if a := p.shared; p.CredentialsFile != "" && (a.token != "" || a.file != "" || a.uids != nil) {
		p.warn(where{variable: outputVariable}, "is for all who may read it: %s, %s and %s do not apply to a file, only its mode does (0600: programs of the sidecar's user, 0640: of its group too)",
			"IRSA_SIDECAR_AUTHORIZATION_TOKEN", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "IRSA_SIDECAR_ALLOWED_UIDS")
	}
	return outputs
}

// withoutFiles reports variables that change nothing, because no credentials file is written.
func (p *parser) withoutFiles(all []*profile, o fileOutput) {
	if p.CredentialsFile != "" || slices.ContainsFunc(all, func(one *profile) bool { return one.file != "" }) {
		return
	}
	for _, v := range []struct {
		name string
		set  bool
	}{{fileModeVariable, p.value(fileModeVariable) != ""}, {fileRemoveVariable, o.remove && p.value(fileRemoveVariable) != ""}, {fileDiskVariable, o.onDisk}} {
		switch {
		case !v.set:
		case p.files.config.path == "":
			p.reject(v.name, "is set, but %s is not, and it is only for that file; set that to a path, or unset this", outputVariable)
		default: // which may name a file when it changes, or may have named one
			p.warn(where{variable: v.name}, "is set, but neither %s nor %s of any profile names a file", outputVariable, outputKey)
		}
	}
}

// processOutput is a configuration file for SDKs, with a program that asks the sidecar. It holds no secret, so that it may be
// on a disk, and everybody may read it: the sidecar decides who gets what.
func (p *parser) processOutput(all []*profile) fileOutput {
	dir := filepath.Dir(p.ProcessFile)
	program := filepath.Join(dir, "irsa-sidecar")
	if program == filepath.Clean(p.ProcessFile) {
		p.reject(processVariable, "%s is where irsa-sidecar install puts the program; give the file another name", p.ProcessFile)
	}
	// SDKs split the line themselves or hand it to a shell, and all of them take double quotes.
	// https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
	if odd := regexp.MustCompile(`[^A-Za-z0-9 /._+=,@:-]`).FindString(dir); odd != "" {
		p.reject(processVariable, "%s has %q in its directory, which not every SDK takes in credential_process; use letters, digits, spaces and /._+=,@:-", p.ProcessFile, odd)
	}
	command := program
	if strings.Contains(dir, " ") {
		command = `"` + program + `"`
	}
	var text strings.Builder
	for _, one := range all {
		if one.hidden {
			continue
		}
		header := "profile " + one.name
		if one.name == defaultProfile {
			header = one.name
		}
		fmt.Fprintf(&text, "[%s]\ncredential_process = %s credentials --from sidecar --profile %s\n", header, command, one.name)
		if one.exchange.Region != "" {
			fmt.Fprintf(&text, "region = %s\n", one.exchange.Region)
		}
		text.WriteString("\n")
	}
	return fileOutput{place: place{path: p.ProcessFile, onDisk: true, at: where{variable: processVariable}}, mode: 0o644, text: text.String(), program: program}
}

// outputMode is the mode of credentials files.
func (p *parser) outputMode() fs.FileMode {
	switch p.FileMode {
	case "0600", "600":
	case "0640", "640":
		return 0o640
	default:
		p.reject(fileModeVariable, "%q is not a mode that the sidecar gives the file; use 0600 (only its own user may read it) or 0640 (its group too)", p.FileMode)
	}
	return 0o600
}

// outputPath checks the path of a file to be written, and adds it to those that are named.
func (p *parser) outputPath(at where, path string, named map[string]string) bool {
	if !p.filePath(at, path, "/run/irsa-sidecar/credentials") {
		return false
	}
	clean := filepath.Clean(path)
	if other := named[clean]; other != "" {
		p.rejectAt(at, "%s is also the path in %s; give each file its own", path, other)
		return false
	}
	named[clean] = at.variable
	return true
}

// namedPaths are the paths of all other files of the configuration, with the variable that names each.
func (p *parser) namedPaths(all []*profile) map[string]string {
	named := make(map[string]string)
	add := func(variable, path string) {
		if path != "" {
			named[filepath.Clean(path)] = variable
		}
	}
	add(configVariable, p.ConfigFile)
	for _, one := range all {
		add(configVariable, one.exchange.TokenFile)
		add(configVariable, one.policyFile)
		add(configVariable, one.access.file)
	}
	add("AWS_WEB_IDENTITY_TOKEN_FILE", p.TokenFile)
	add(roleFileVariable, p.RoleARNFile)
	add("AWS_CA_BUNDLE", p.CABundle)
	add("IRSA_SIDECAR_POLICY_FILE", p.PolicyFile)
	add("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", p.AuthorizationFile)
	add(stateVariable, p.StateFile)
	add(socketVariable, p.Socket)
	return named
}
