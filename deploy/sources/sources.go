// Package sources knows where AWS clients look for credentials, and in which order: what goes before the sidecar, and which of
// its outputs they find. The doctor, irsa-sidecar-inject and docs/programs.md have it from here. It knows only names, not what
// is set or where, and imports none of the other packages.
package sources

import (
	"slices"
	"strings"
)

// A Kind is a place where clients look for credentials.
type Kind string

// The kinds, in the most common order.
const (
	Keys        Kind = "keys"         // access keys in the environment
	WebIdentity Kind = "web identity" // AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN
	Profile     Kind = "profile"      // the selected profile of the shared files
	Container   Kind = "container"    // an HTTP endpoint: the sidecar
)

// The variables of the container endpoint.
const (
	FullURI     = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	RelativeURI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	Token       = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	TokenFile   = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
)

// The variables of files and of instance metadata.
const (
	CredentialsFile  = "AWS_SHARED_CREDENTIALS_FILE"
	ConfigFile       = "AWS_CONFIG_FILE"
	MetadataEndpoint = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	MetadataMode     = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"
	MetadataDisabled = "AWS_EC2_METADATA_DISABLED"
)

// An Output is a way in which the sidecar gives credentials to programs.
type Output struct {
	Name    string // as docs/programs.md calls it
	Section string // of docs/programs.md
	By      string // the app's variable that leads to it
	On      string // the sidecar's variable that switches it on; empty: it is always on
}

// The outputs.
var (
	Endpoint = Output{"container endpoint", "container-endpoint", FullURI, ""}
	Relative = Output{"relative URI", "relative-uri", RelativeURI, "IRSA_SIDECAR_ECS_LISTEN"}
	Metadata = Output{"instance metadata", "instance-metadata", MetadataEndpoint, "IRSA_SIDECAR_IMDS_LISTEN"}
	File     = Output{"file", "files", CredentialsFile, "IRSA_SIDECAR_CREDENTIALS_FILE"}
	Process  = Output{"process", "a-process", ConfigFile, "IRSA_SIDECAR_PROCESS_FILE"}

	Outputs = []Output{Endpoint, Relative, Metadata, File, Process}
)

// A Variable can keep a client from asking the sidecar, or from being let in there.
type Variable struct {
	Name string
	Kind Kind
	Why  string // continues a sentence that begins with the name
	By   string // which clients read it; empty: most
}

// Before lists the variables that go before the sidecar if they are not empty.
var Before = []Variable{
	{"AWS_ACCESS_KEY_ID", Keys, "holds a key that clients use before anything else, even when it has expired", ""},
	{"AWS_ACCESS_KEY", Keys, "is an old name of AWS_ACCESS_KEY_ID", "Go, Java v1, Ruby, minio-go"},
	{"AMAZON_ACCESS_KEY_ID", Keys, "is an old name of AWS_ACCESS_KEY_ID", "JavaScript v2, Ruby"},
	{"AWS_WEB_IDENTITY_TOKEN_FILE", WebIdentity, "makes clients exchange the token themselves, or fail to", ""},
	{"AWS_PROFILE", Profile, "selects a profile of the shared files; some clients fail if it does not exist", ""},
	{"AWS_DEFAULT_PROFILE", Profile, "is an old name of AWS_PROFILE, and in botocore goes before it", "botocore, AWS CLI, Go, Ruby"},
	{CredentialsFile, Profile, "names a file of credentials, in place of ~/.aws/credentials", ""},
	{ConfigFile, Profile, "names a file of profiles, in place of ~/.aws/config; one with keys, a role, SSO or a credential_process goes before the sidecar", ""},
	{"AWS_CREDENTIAL_FILE", Profile, "is an old name of AWS_SHARED_CREDENTIALS_FILE", "botocore, AWS CLI"},
	{"AWS_CREDENTIAL_PROFILES_FILE", Profile, "is an old name of AWS_SHARED_CREDENTIALS_FILE", "Java v1"},
	{RelativeURI, Container, "is asked in place of " + FullURI + ", at 169.254.170.2", "most but Go v1 and old Go v2"},
	{TokenFile, Container, "goes before " + Token + ": the sidecar refuses another's token, such as EKS Pod Identity's", "most"},
}

// Find returns the variable of this name in Before.
func Find(name string) (v Variable, known bool) {
	i := slices.IndexFunc(Before, func(v Variable) bool { return v.Name == name })
	if i < 0 {
		return Variable{}, false
	}
	return Before[i], true
}

// Files lists where clients look for profiles, in the home directory of their user, unless AWS_SHARED_CREDENTIALS_FILE and
// AWS_CONFIG_FILE name other files.
var Files = []string{".aws/credentials", ".aws/config"}

// IsShared reports whether the path is one of Files in some home directory, or the directory they are in.
func IsShared(path string) bool {
	path = "/" + strings.Trim(path, "/")
	return strings.HasSuffix(path, "/.aws") || slices.ContainsFunc(Files, func(file string) bool { return strings.HasSuffix(path, "/"+file) })
}

// Names returns the names of the variables of a kind in Before.
func Names(k Kind) (names []string) {
	for _, v := range Before {
		if v.Kind == k {
			names = append(names, v.Name)
		}
	}
	return names
}

// A Proxied says when a client's request to 127.0.0.1 goes to the proxy in HTTP_PROXY, with the authorization token.
type Proxied string

// Most clients ask loopback directly, whatever the environment says.
const (
	Never          Proxied = ""
	UnlessExempt   Proxied = "unless NO_PROXY covers 127.0.0.1"
	UnlessVerbatim Proxied = "unless NO_PROXY has the entry 127.0.0.1"
)

// A Client is a family of clients that look for credentials in the same way.
type Client struct {
	Name string

	// Order is where it looks, up to the container endpoint. Nil: not known.
	Order []Kind

	// ProfileHidesKeys: with AWS_PROFILE, it ignores keys in the environment.
	ProfileHidesKeys bool

	// ConfigOnDemand: it reads AWS_CONFIG_FILE and ~/.aws/config only if AWS_SDK_LOAD_CONFIG is set; HomeOnly: it reads
	// AWS_SHARED_CREDENTIALS_FILE only then too, and ~/.aws/credentials otherwise.
	ConfigOnDemand, HomeOnly bool

	// FullFirst: it prefers FullURI to RelativeURI; VariableFirst: Token to TokenFile; FileOnly: it ignores Token.
	FullFirst, VariableFirst, FileOnly bool

	// EmptyFails: it fails if AWS_WEB_IDENTITY_TOKEN_FILE is set and empty, which others take for not set.
	EmptyFails bool

	// NumbersOnly: it takes 127.0.0.1 and refuses the name localhost.
	NumbersOnly bool

	// NodeNext: if the sidecar gives it nothing, it asks the EC2 metadata service, unless AWS_EC2_METADATA_DISABLED is true;
	// NodeAlways: also then.
	NodeNext, NodeAlways bool

	// Proxied is whether a proxy gets its requests to the sidecar.
	Proxied Proxied
}

var (
	usual        = []Kind{Keys, WebIdentity, Profile, Container}
	profileFirst = []Kind{Keys, Profile, WebIdentity, Container}
)

// Clients has what the clients' own source says, or what they did in integration/clients. Add a row, or a fact, when it is
// known.
var Clients = []Client{
	// create_credential_resolver in credentials.py. A profile with role_arn and source_profile goes before web identity.
	{Name: "botocore, boto3, AWS CLI", Order: usual},
	// aws/session/credentials.go, aws/defaults/defaults.go
	{Name: "Go v1", Order: usual, ConfigOnDemand: true, FullFirst: true},
	// config/resolve_credentials.go. Before config 1.27.34, FullURI came first.
	{Name: "Go v2", Order: usual},
	// defaultProviders in lib/node_loader.js; the token's order in lib/credentials/remote_credentials.js, the files in
	// getProfilesFromSharedConfig of lib/util.js
	{Name: "JavaScript v2", Order: []Kind{Keys, Profile, Container}, ConfigOnDemand: true, HomeOnly: true, VariableFirst: true, NodeNext: true},
	// defaultProvider in credential-provider-node. Releases up to 3.495 don't know TokenFile.
	{Name: "JavaScript v3", Order: profileFirst, ProfileHidesKeys: true},
	// DefaultAWSCredentialsProviderChain.java. Keys in system properties come second.
	{Name: "Java v1", Order: usual},
	// DefaultCredentialsProvider.java. Keys in system properties come first.
	{Name: "Java v2", Order: usual, NodeNext: true},
	// STANDARD_AWS_PROVIDERS in S3AUtils.java, which configurations replace; EC2ContainerCredentialsProviderWrapper of Java v1
	{Name: "Hadoop S3A 3.3", Order: []Kind{Keys, Container}},
	// The same list in CredentialProviderListFactory.java; IAMInstanceCredentialsProvider.java, with Java v2
	{Name: "Hadoop S3A 3.4", Order: []Kind{Keys, Container}, NodeNext: true},
	// FallbackCredentialsFactory.cs
	{Name: ".NET v3, PowerShell", Order: []Kind{WebIdentity, Profile, Keys, Container}},
	{Name: ".NET v4", Order: usual},
	// lib/aws-sdk-core/credential_provider_chain.rb
	{Name: "Ruby", Order: usual},
	// CredentialProvider::defaultProvider
	{Name: "PHP", Order: usual},
	// DefaultCredentialsChain in aws-config. Only a provider that has nothing set lets it go on.
	{Name: "Rust", Order: profileFirst, EmptyFails: true},
	// AWSCredentialsProviderChain.cpp
	{Name: "C++ (PyArrow, DuckDB)", Order: profileFirst},
	// DefaultChainCredentialsProvider.kt
	{Name: "Kotlin", Order: usual, NodeNext: true},
	// ECSAWSCredentialIdentityResolver.swift
	{Name: "Swift", NumbersOnly: true},
	// credentials_provider_default_chain.c. It goes on to the container if web identity fails.
	{Name: "AWS CRT", Order: profileFirst},
	// pkg/credentials/iam_aws.go; what comes before depends on the program
	{Name: "minio-go (mc, restic, Thanos)", Order: profileFirst},
	// minio/credentials/providers.py: IamAwsProvider; what comes before depends on the program
	{Name: "minio-py", Order: []Kind{WebIdentity, Container}},
	// port/cpl_aws.cpp
	{Name: "GDAL", Order: profileFirst},
	// IamAwsProvider.java; what comes before depends on the program
	{Name: "minio-java", Order: []Kind{WebIdentity, Container}, EmptyFails: true},
	// src/aws/builder.rs, with reqwest as HTTP client. Without TokenFile it does not ask.
	{Name: "object_store (delta-rs, DataFusion)", Order: []Kind{Keys, WebIdentity, Container}, FileOnly: true, Proxied: UnlessExempt},
	// object_store, after it has read the files itself
	{Name: "Polars", Order: profileFirst, FileOnly: true, Proxied: UnlessExempt},
	// reqsign's ecs.rs and default.rs, with reqwest. It goes on to the container if web identity fails.
	{Name: "OpenDAL", Order: profileFirst, FullFirst: true, VariableFirst: true, NodeNext: true, Proxied: UnlessExempt},
	// ContainerProvider.php, with Symfony's HTTP client
	{Name: "async-aws", Order: usual, FileOnly: true, NumbersOnly: true, NodeAlways: true, Proxied: UnlessExempt},
	// src/aws/flb_aws_credentials.c and flb_aws_credentials_http.c
	{Name: "Fluent Bit", Order: profileFirst, NumbersOnly: true, Proxied: UnlessVerbatim},
	// container_credentials_provider.cc
	{Name: "Envoy", Order: []Kind{Keys, Profile, Container}, VariableFirst: true},
}

// GoesBefore reports whether the client looks at k before the container endpoint.
func (c *Client) GoesBefore(k Kind) bool {
	before := slices.Index(c.Order, k)
	return k != Container && before >= 0 && before < slices.Index(c.Order, Container)
}

// Remarks returns what else is particular about the client, for docs.
func (c *Client) Remarks() (all []string) {
	for _, r := range []struct {
		holds bool
		text  string
	}{
		{c.ProfileHidesKeys, "with `AWS_PROFILE`, ignores keys in variables"},
		{c.ConfigOnDemand && !c.HomeOnly, "reads `~/.aws/config` only with `AWS_SDK_LOAD_CONFIG`"},
		{c.HomeOnly, "reads `~/.aws/config` and `AWS_SHARED_CREDENTIALS_FILE` only with `AWS_SDK_LOAD_CONFIG`"},
		{c.FullFirst, "prefers `" + FullURI + "` to `" + RelativeURI + "`"},
		{c.VariableFirst, "prefers `" + Token + "` to the file"},
		{c.FileOnly, "ignores `" + Token + "`"},
		{c.EmptyFails, "fails if `AWS_WEB_IDENTITY_TOKEN_FILE` is empty"},
		{c.NumbersOnly, "refuses `localhost`"},
		{c.NodeNext, "then asks for the node's role"},
		{c.NodeAlways, "then asks for the node's role, whatever `AWS_EC2_METADATA_DISABLED` says"},
		{c.Proxied != Never, "asks through `HTTP_PROXY` " + string(c.Proxied)},
	} {
		if r.holds {
			all = append(all, r.text)
		}
	}
	return all
}

// Those returns the names of the clients for which is holds.
func Those(is func(*Client) bool) (names []string) {
	for i := range Clients {
		if is(&Clients[i]) {
			names = append(names, Clients[i].Name)
		}
	}
	return names
}
