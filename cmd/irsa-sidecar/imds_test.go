package main

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
)

func TestIMDSSettings(t *testing.T) {
	const (
		on       = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_IMDS_LISTEN=169.254.169.254:80,[fd00:ec2::254]:80"
		other    = "[profile other]\nrole_arn = " + otherRole + "\n"
		guarded  = other + "irsa_sidecar_authorization_token_file = /run/other/token\n"
		users    = other + "irsa_sidecar_allowed_uids = 1000\n"
		token    = "\nIRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef"
		own      = `has an authorization token of its own, and programs cannot send one to an instance metadata service; remove irsa_sidecar_authorization_token_file from the profile, and restrict it with irsa_sidecar_allowed_uids`
		elsewise = "is set, but IRSA_SIDECAR_IMDS_LISTEN is not, and it is only for that listener"
	)
	for name, row := range map[string]struct {
		env, config string
		want        string // a problem, or the settings
	}{
		"the defaults":                    {on, "", "default v1=false zone= region="},
		"all of it":                       {on + "\nIRSA_SIDECAR_IMDS_V1=true\nIRSA_SIDECAR_IMDS_PROFILE=other\nIRSA_SIDECAR_AVAILABILITY_ZONE=eu-west-1a\nAWS_REGION=eu-west-1", users, "other v1=true zone=eu-west-1a region=eu-west-1"},
		"the Pod's region, not STS's":     {on + "\nIRSA_SIDECAR_IMDS_PROFILE=other\nAWS_DEFAULT_REGION=eu-west-1\nIRSA_SIDECAR_AVAILABILITY_ZONE=eu-west-1a", other + "region = us-east-1", "other v1=false zone=eu-west-1a region=eu-west-1"},
		"the profile's region":            {on + "\nIRSA_SIDECAR_IMDS_PROFILE=other", other + "region = us-east-1", "other v1=false zone= region=us-east-1"},
		"the environment's token":         {on + token, guarded, "default v1=false zone= region="},
		"a profile with a token":          {on + token + "\nIRSA_SIDECAR_IMDS_PROFILE=other", guarded, `IRSA_SIDECAR_IMDS_PROFILE names the profile "other", which ` + own},
		"the default one with a token":    {on, "[default]\nirsa_sidecar_authorization_token_file = /run/default/token\n", `IRSA_SIDECAR_IMDS_LISTEN serves the profile "default", which ` + own},
		"an unknown profile":              {on + "\nIRSA_SIDECAR_IMDS_PROFILE=othre", other, `IRSA_SIDECAR_IMDS_PROFILE is "othre", and there is no such profile; did you mean "other"?`},
		"a hidden one":                    {on + "\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole + "\nIRSA_SIDECAR_IMDS_PROFILE=default/source", "", `IRSA_SIDECAR_IMDS_PROFILE is "default/source", and there is no such profile; did you mean "default"?`},
		"no default profile":              {"AWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0", other, `IRSA_SIDECAR_IMDS_LISTEN serves the profile "default", and there is no such profile; name one in IRSA_SIDECAR_IMDS_PROFILE`},
		"a zone that is none":             {on + "\nIRSA_SIDECAR_AVAILABILITY_ZONE=use1-az4", "", `IRSA_SIDECAR_AVAILABILITY_ZONE "use1-az4" is not the name of an availability zone, such as eu-west-1a; the node's label topology.kubernetes.io/zone has it`},
		"a zone of another region":        {on + "\nIRSA_SIDECAR_AVAILABILITY_ZONE=eu-west-1a\nAWS_REGION=eu-west-2", "", `IRSA_SIDECAR_AVAILABILITY_ZONE "eu-west-1a" is in the region eu-west-1, but the Pod's region is eu-west-2`},
		"a zone with the global STS":      {on + "\nIRSA_SIDECAR_AVAILABILITY_ZONE=eu-west-1a\nAWS_REGION=aws-global", "", "default v1=false zone=eu-west-1a region=aws-global"},
		"no listener, but a zone":         {strings.Replace(on, "IMDS_LISTEN=", "ECS_LISTEN=", 1) + "\nIRSA_SIDECAR_AVAILABILITY_ZONE=eu-west-1a", "", "IRSA_SIDECAR_AVAILABILITY_ZONE " + elsewise},
		"no listener, but a profile":      {strings.Replace(on, "IMDS_LISTEN=", "ECS_LISTEN=", 1) + "\nIRSA_SIDECAR_IMDS_PROFILE=default", "", "IRSA_SIDECAR_IMDS_PROFILE " + elsewise},
		"no listener, but IMDSv1":         {strings.Replace(on, "IMDS_LISTEN=", "ECS_LISTEN=", 1) + "\nIRSA_SIDECAR_IMDS_V1=true", "", "IRSA_SIDECAR_IMDS_V1 " + elsewise},
		"no listener, and no IMDSv1":      {strings.Replace(on, "IMDS_LISTEN=", "ECS_LISTEN=", 1) + "\nIRSA_SIDECAR_IMDS_V1=false", "", "default v1=false zone= region="},
		"an address of the Pod's network": {strings.Replace(on, "169.254.169.254", "10.0.0.7", 1), "", `IRSA_SIDECAR_IMDS_LISTEN "10.0.0.7:80" is not an address that only this Pod has, and a port, such as 169.254.169.254:80; the address must be in 169.254.0.0/16 or fd00:ec2::/32, or be a loopback address`},
		"an address twice":                {on + ",169.254.169.254:80", "", `IRSA_SIDECAR_IMDS_LISTEN has "169.254.169.254:80" twice`},
	} {
		s, invalid := parseFile(row.env, cmp.Or(row.config, "# no profiles"))
		got := strings.TrimPrefix(invalid.Error(), "invalid configuration: ")
		if len(invalid) == 0 {
			got = fmt.Sprintf("%s v1=%t zone=%s region=%s", s.imds.profile, s.imds.v1, s.imds.zone, s.imds.place.Region)
		}
		if got != row.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, row.want)
		}
	}
}

// A token that other listeners ask for is not asked for there, and the log says so, of the profile that is served alone.
func TestIMDSWarnsOfItsProfileAlone(t *testing.T) {
	s, invalid := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef\nIRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0",
		"[profile other]\nrole_arn = "+otherRole+"\n")
	want := "IRSA_SIDECAR_IMDS_LISTEN serves the credentials of the profile default without the authorization token, "
	if len(invalid) > 0 || len(s.warnings) != 1 || !strings.HasPrefix(s.warnings[0], want) {
		t.Errorf("%v %q, want %q", invalid, s.warnings, want)
	}
}
