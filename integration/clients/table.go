// Package clients knows the AWS clients that the sidecar is tested with: what is expected of each, and how it is installed and
// started. The table in docs/programs.md is made from the same list.
package clients

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

//go:embed clients.json
var raw []byte

// Table is clients.json.
type Table struct {
	// NPMBefore is the latest date of packages from npm, YYYY-MM-DD, which pins their dependencies.
	NPMBefore string `json:"npmBefore"`

	// Clients are run by the tests.
	Clients []Client `json:"clients"`

	// Known are not run: no registry that the tests can rely on has them.
	Known []Known `json:"known"`
}

// Client is one version of an SDK or a tool. The expectations are checked in both directions: if a client has a new ability, the
// test fails until the table, and docs/programs.md with it, says so.
type Client struct {
	Name    string   `json:"name"`
	From    string   `json:"from"`    // go, npm, pypi, maven, debian, or machine: whatever is installed
	Package string   `json:"package"` // its name there; for Maven, group:artifact
	Version string   `json:"version"` // pinned; for Debian only the upstream part; empty for machine
	Release string   `json:"release"` // Debian's name for one
	With    []string `json:"with"`    // what is needed besides; for PyPI name==version, for Maven group:artifact:version
	Exclude []string `json:"exclude"` // what Maven must leave out, as group:artifact
	Driver  string   `json:"driver"`  // the program in drivers that uses an SDK; for a tool, its own name

	// Endpoint: it knows AWS_CONTAINER_CREDENTIALS_FULL_URI. Otherwise it never asks.
	Endpoint bool `json:"endpoint"`

	// TokenFile: it knows AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE. All except those with FileOnly know the variable with the token
	// itself.
	TokenFile bool `json:"tokenFile"`

	// FileOnly: it does not know AWS_CONTAINER_AUTHORIZATION_TOKEN. Without TokenFile it is Tokenless.
	FileOnly bool `json:"fileOnly"`

	// FileNeeded: without AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE it does not ask either, and takes the node's role.
	FileNeeded bool `json:"fileNeeded"`

	// Message: its error contains the sidecar's.
	Message bool `json:"message"`

	// WebIdentityFirst: if AWS_WEB_IDENTITY_TOKEN_FILE is set, it makes the exchange itself.
	WebIdentityFirst bool `json:"webIdentityFirst"`

	// WebIdentityTried: then it makes the exchange itself as well, but asks the sidecar if that fails.
	WebIdentityTried bool `json:"webIdentityTried"`

	// Unset: AWS_WEB_IDENTITY_TOKEN_FILE must not be set. It fails if the variable is empty, which all others take for not set.
	Unset bool `json:"unset"`

	// RoleFails: it fails if AWS_ROLE_ARN is set, if only to nothing, and AWS_WEB_IDENTITY_TOKEN_FILE is not.
	RoleFails bool `json:"roleFails"`

	// Tries is how often it asks before it gives up after refusals.
	Tries int `json:"tries"`

	// Window: if the credentials have 4 minutes left, it asks again before every use.
	Window bool `json:"window"`

	// WindowAtRandom: then it asks again at a random time.
	WindowAtRandom bool `json:"windowAtRandom"`

	// KeptBy is what keeps it from the node's role, which the EC2 metadata service gives, if it gets nothing from the sidecar.
	KeptBy Keeper `json:"keptBy"`

	// Outputs of the sidecar that it can use, the best first: the first is what docs/programs.md recommends. Those of a client
	// with Endpoint do not name that one; it comes before them, except where FileOnly makes it one more, and after them with
	// Unset and without any token.
	Outputs []Output `json:"outputs"`

	// Once are those of Outputs that a running process reads only once: it fails when the session has ended.
	Once []Output `json:"once"`

	// MetadataVariable names another address of the metadata service. Empty if it has the address built in.
	MetadataVariable string `json:"metadataVariable"`

	// Options are its own settings that it needs for an output. HomeFile is one.
	Options map[Output]string `json:"options"`

	// Since and TokenFileSince are the first versions with Endpoint and TokenFile; empty if another row has them, or none.
	Since          string `json:"since"`
	TokenFileSince string `json:"tokenFileSince"`
}

// Keeper is what keeps a client from the role of the node that it runs on.
type Keeper string

// What can keep a client from it: most do not ask the metadata service if they are configured to use the sidecar. A variable
// works with the value that all manifests set. EmptyFile works by accident, because the client takes the empty value for the
// name of a file.
const (
	Itself    Keeper = ""
	Disabled  Keeper = "AWS_EC2_METADATA_DISABLED"
	EmptyFile Keeper = "AWS_WEB_IDENTITY_TOKEN_FILE"
	Nothing   Keeper = "nothing"
)

// Output is a way in which the sidecar gives credentials.
type Output string

// HomeFile is the setting for [File] of a client that does not read AWS_SHARED_CREDENTIALS_FILE.
const HomeFile = "~/.aws/credentials"

// The outputs. IMDS1 is for programs that do not know IMDSv2.
const (
	Endpoint Output = "endpoint" // AWS_CONTAINER_CREDENTIALS_FULL_URI
	ECS      Output = "ecs"      // AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
	IMDS1    Output = "imds1"
	IMDS2    Output = "imds2"
	File     Output = "file"    // a shared credentials file
	Process  Output = "process" // a profile's credential_process
)

// Known is what the source of a client says, for one that is not run.
type Known struct {
	Name           string `json:"name"`
	Since          string `json:"since"`
	TokenFileSince string `json:"tokenFileSince"`
	Remark         string `json:"remark"`
}

// Read returns the table.
func Read() (Table, error) {
	var t Table
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&t); err != nil {
		return t, fmt.Errorf("clients.json: %w", err)
	}
	return t, nil
}

var debianVersions = map[string]string{"bookworm": "Debian 12", "trixie": "Debian 13"}

// ID names a client with its version, as on a command line.
func (c Client) ID() string { return c.Name + " " + c.label() }

// families are the names in sources.Clients, by driver.
var families = map[string]string{
	"botocore": "botocore, boto3, AWS CLI", "aws": "botocore, boto3, AWS CLI", "go-v1": "Go v1", "rclone": "Go v1", "go-v2": "Go v2",
	"javascript-v2": "JavaScript v2", "javascript-v3": "JavaScript v3", "ruby": "Ruby", "minio-go": "minio-go (mc, restic, Thanos)",
	"restic": "minio-go (mc, restic, Thanos)", "polars": "Polars", "async-aws": "async-aws", "awscrt": "AWS CRT",
	"java-v1": "Java v1", "java-v2": "Java v2", "kotlin": "Kotlin", "hadoop-v1": "Hadoop S3A 3.3", "hadoop-v2": "Hadoop S3A 3.4",
	"aiobotocore": "botocore, boto3, AWS CLI", "minio-java": "minio-java", "minio-py": "minio-py", "object-store": "object_store (delta-rs, DataFusion)",
	"icechunk": "Rust", "opendal-python": "OpenDAL", "pyarrow": "C++ (PyArrow, DuckDB)", "duckdb": "C++ (PyArrow, DuckDB)",
	"s3torchconnector": "AWS CRT", "rasterio": "GDAL",
}

// Source is where it looks for credentials, as the doctor and docs/programs.md say it. It is not known of clients that never
// ask the sidecar.
func (c Client) Source() (s sources.Client, known bool) {
	i := slices.IndexFunc(sources.Clients, func(s sources.Client) bool { return s.Name == families[c.Driver] })
	if i < 0 {
		return s, false
	}
	return sources.Clients[i], true
}

func (c Client) label() string {
	switch c.From {
	case "machine":
		return "(installed)"
	case "debian":
		return c.Version + " (" + debianVersions[c.Release] + ")"
	}
	return strings.TrimPrefix(c.Version, "v")
}

// Tool reports whether it is a program for people, which runs once for each use and shows no credentials. Its driver is its own
// name. All others are programs in drivers that keep running between uses.
func (c Client) Tool() bool {
	return slices.Contains([]string{"aws", "rclone", "restic", "s3cmd"}, c.Driver)
}

// withoutSidecar says what it does if the sidecar gives it nothing.
func (c Client) withoutSidecar() string {
	const node = "**runs as the node**"
	switch {
	case c.KeptBy == Nothing:
		return node
	case c.FileNeeded:
		return node + "; with a token file, fails"
	case c.KeptBy == Disabled:
		return "fails, because of `" + string(Disabled) + "`"
	case c.KeptBy == EmptyFile:
		return "fails, at the empty `" + string(EmptyFile) + "`"
	}
	return "fails"
}

// Markdown returns the table in docs/programs.md of the clients that are run.
func (t Table) Markdown() string {
	var b strings.Builder
	b.WriteString("| client | tested | gets credentials | token by variable | token by file | shows the sidecar's error | with web identity variables too | with nothing from the sidecar |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range t.Clients {
		endpoint, variable, file, message, trap := "yes"+since(c.Since), "yes", "yes", "no", "asks the sidecar"
		if c.FileNeeded {
			endpoint = "with a token file" + since(c.Since)
		}
		if c.FileOnly {
			variable = "**no**"
		}
		if !c.TokenFile {
			file = "no" + since(c.TokenFileSince)
		}
		if c.Message {
			message = "yes"
		}
		switch {
		case c.WebIdentityFirst:
			trap = "**never asks**"
		case c.WebIdentityTried:
			trap = "asks the sidecar if its own exchange fails"
		}
		if c.Unset {
			trap += "; **fails** if `" + string(EmptyFile) + "` is empty"
		}
		if c.RoleFails {
			trap += "; **fails** with `AWS_ROLE_ARN` alone, even if it is empty"
		}
		if !c.Endpoint {
			endpoint, variable, file, message, trap = "no"+since(c.Since), "–", "–", "–", "–"
		}
		tested := c.label()
		if c.From == "machine" {
			tested = "whatever is installed"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.Name, tested, endpoint, variable, file, message, trap, c.withoutSidecar())
	}
	return b.String()
}

// Tokenless reports whether it asks the endpoint, but can send no authorization token.
func (c Client) Tokenless() bool { return c.FileOnly && !c.TokenFile }

// recommended are the outputs that a client can use, the best first.
func (c Client) recommended() []Output {
	if c.Unset || c.Tokenless() {
		return append(slices.Clone(c.Outputs), Endpoint)
	}
	if c.Endpoint && !slices.Contains(c.Outputs, Endpoint) {
		return slices.Concat([]Output{Endpoint}, c.Outputs)
	}
	return c.Outputs
}

// Renews reports whether a running process gets new credentials from an output. A tool runs once for each use.
func (c Client) Renews(o Output) bool { return c.Tool() || !slices.Contains(c.Once, o) }

// named is an output in docs/programs.md.
func (o Output) named() string {
	return map[Output]string{
		Endpoint: "[container endpoint](#container-endpoint)", ECS: "[relative URI](#relative-uri)", IMDS1: "[IMDSv1](#instance-metadata)",
		IMDS2: "[IMDSv2](#instance-metadata)", File: "[file](#files)", Process: "[`credential_process`](#a-process)",
	}[o]
}

// settings say what the container of a client needs for an output.
func (c Client) settings(o Output) string {
	text := ""
	switch o {
	case Endpoint:
		text = "`AWS_CONTAINER_CREDENTIALS_FULL_URI`"
		if c.FileOnly {
			text += ", `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`"
		}
		if c.Unset {
			text += "; " + unset
		}
	case ECS:
		text = "`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`; the address 169.254.170.2"
	case IMDS1, IMDS2:
		text = "the address 169.254.169.254"
		if c.MetadataVariable != "" {
			text += ", or `" + c.MetadataVariable + "`"
		}
	case File:
		if c.Options[o] == HomeFile {
			break
		}
		text = "`AWS_SHARED_CREDENTIALS_FILE`"
	case Process:
		text = "`~/.aws/config`"
	}
	if option := c.Options[o]; option != "" {
		text += "; `" + option + "`"
	}
	return strings.TrimPrefix(text, "; ")
}

// unset is what the container endpoint takes with Client.Unset.
const unset = "[no `AWS_WEB_IDENTITY_TOKEN_FILE`](#the-trap)"

// OutputsMarkdown returns the table in docs/programs.md of the output that each client needs. It begins with those that cannot use the
// container endpoint.
func (t Table) OutputsMarkdown() string {
	var b strings.Builder
	b.WriteString("| program | version | output | set | running processes get new credentials | it can also use |\n|---|---|---|---|---|---|\n")
	sorted := slices.Clone(t.Clients)
	slices.SortStableFunc(sorted, func(a, b Client) int {
		switch first := a.recommended()[0] == Endpoint; {
		case first == (b.recommended()[0] == Endpoint):
			return 0
		case first:
			return 1
		}
		return -1
	})
	for _, c := range sorted {
		all := c.recommended()
		renews := func(o Output) string {
			switch {
			case c.Tool():
				return "each run does"
			case c.Renews(o):
				return "yes"
			}
			return "no, restart it"
		}
		var others []string
		for _, o := range all[1:] {
			text := o.named()
			if c.Options[o] == HomeFile {
				text += " at `" + HomeFile + "`"
			}
			if !c.Renews(o) {
				text += ", which it reads once"
			}
			switch {
			case o == Endpoint && c.Unset:
				text += ", with " + unset
			case o == Endpoint && c.Tokenless():
				text += ", if the sidecar has no authorization token"
			}
			if (o == IMDS1 || o == IMDS2) && c.MetadataVariable != "" {
				text += " (`" + c.MetadataVariable + "`)"
			}
			others = append(others, text)
		}
		version := c.label()
		if c.From == "machine" {
			version = "whatever is installed"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", c.Name, version, all[0].named(), c.settings(all[0]), renews(all[0]), strings.Join(others, "; "))
	}
	return b.String()
}

func since(version string) string {
	if version == "" {
		return ""
	}
	return "; since " + version
}

// KnownMarkdown returns the table in docs/programs.md of the clients that are not run.
func (t Table) KnownMarkdown() string {
	var b strings.Builder
	b.WriteString("| client | gets credentials since | token by file since | |\n|---|---|---|---|\n")
	for _, k := range t.Known {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", k.Name, k.Since, k.TokenFileSince, k.Remark)
	}
	return b.String()
}
