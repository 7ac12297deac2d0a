package names

import (
	"strconv"
	"strings"
	"testing"
)

func TestRegionOfIssuer(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE":      "eu-west-1",
		"https://oidc.eks.us-gov-west-1.amazonaws.com/id/EXAMPLE":  "us-gov-west-1",
		"https://oidc.eks.cn-north-1.amazonaws.com.cn/id/EXAMPLE":  "cn-north-1",
		"https://oidc.eks.eusc-de-east-1.amazonaws.eu/id/EXAMPLE":  "eusc-de-east-1",
		"https://oidc-fips.eks.us-east-1.amazonaws.com/id/EXAMPLE": "us-east-1",
		"https://oidc-eks.eu-west-1.api.aws/id/EXAMPLE":            "eu-west-1", // dual-stack
		"":                               "",
		"https://kubernetes.default.svc": "",
		"http://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE":            "",
		"https://oidc.eks.eu-west-1":                                    "",
		"https://oidc.eks.eu-west.amazonaws.com/id/EXAMPLE":             "",
		"https://oidc.eks.amazonaws.com/id/EXAMPLE":                     "",
		"https://oidcxeks.eu-west-1.amazonaws.com/id/EXAMPLE":           "",
		"https://evil.example/https://oidc.eks.eu-west-1.amazonaws.com": "",
		"https://s3.eu-west-1.amazonaws.com/oidc":                       "",
	} {
		if got := RegionOfIssuer(issuer); got != want {
			t.Errorf("RegionOfIssuer(%q) = %q, want %q", issuer, got, want)
		}
	}
}

func TestCheckRegion(t *testing.T) {
	const no = "%q is not the name of a region, such as eu-west-1"
	for region, want := range map[string]string{
		"us-east-1": "", "ap-southeast-7": "", "mx-central-1": "", "il-central-1": "", "cn-northwest-1": "", "us-gov-east-1": "", "us-isob-east-1": "", "eusc-de-east-1": "",
		"eu-west-10": "", "aws-global": "", "fips-us-east-1": "",

		"eu-west-1a":       `"eu-west-1a" is an availability zone: its region is eu-west-1`,
		"us-gov-west-1b":   `"us-gov-west-1b" is an availability zone: its region is us-gov-west-1`,
		"us-west-2-lax-1a": no, "euw1-az1": no, "": no, "eu-west-100": no, "eu-west": no, "eu-west-": no, "eu--west-1": no, "-west-1": no, "e-west-1": no, "euwest1": no,
		"eu_west_1": no, "EU-WEST-1": no, "eu-west-1 ": no, " eu-west-1": no, "eu-west-1\n": no, "eu-west-1.evil.example/": no, "us-east-1-fips": no, "Ireland": no, "eu-west-١": no,
	} {
		checkMessage(t, region, CheckRegion(region), want)
	}
}

func TestPartition(t *testing.T) {
	for region, want := range map[string]string{
		"us-east-1": "aws", "aws-global": "aws", "": "aws", "us-west-2": "aws", "eu-south-2": "aws",
		"cn-north-1": "aws-cn", "us-gov-west-1": "aws-us-gov", "us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b",
		"us-isof-south-1": "aws-iso-f", "eu-isoe-west-1": "aws-iso-e", "eusc-de-east-1": "aws-eusc",
	} {
		if got := Partition(region); got != want {
			t.Errorf("Partition(%q) = %q, want %q", region, got, want)
		}
	}
}

func TestRoleAccount(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app":                 "111122223333",
		"arn:aws-us-gov:iam::111122223333:role/a/b/app":      "111122223333",
		"arn:aws:iam::111122223333:role/x:iam::444:role/app": "111122223333",
		"arn:aws:iam:::role/ceph":                            "",
		"arn:minio:iam:::role/app":                           "",
		"app":                                                "",
		"":                                                   "",
	} {
		if got := RoleAccount(arn); got != want {
			t.Errorf("RoleAccount(%q) = %q, want %q", arn, got, want)
		}
	}
}

func TestRolePartition(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:iam::111122223333:role/app": "aws", "arn:aws-cn:iam::111122223333:role/app": "aws-cn", "arn:minio:iam:::role/app": "minio", "": "", "arn": "", "arn:": "",
	} {
		if got := RolePartition(arn); got != want {
			t.Errorf("RolePartition(%q) = %q, want %q", arn, got, want)
		}
	}
}

func TestCheckRoleARN(t *testing.T) {
	const no = "%q is not a role's ARN, such as arn:aws:iam::111122223333:role/app"
	role := "arn:aws:iam::111122223333:role/"
	for arn, want := range map[string]string{
		role + "app": "", role + "a": "", role + "team/app": "", role + "a/b/c/app": "", role + "App_1+=,.@-": "", role + "aws-reserved/sso.amazonaws.com/eu-west-1/AWSReservedSSO_x": "",
		role + "odd!path~/app":                      "", // STS's rule for a path is anything that prints
		"arn:aws-cn:iam::111122223333:role/app":     "",
		"arn:aws-us-gov:iam::111122223333:role/app": "",
		"arn:aws-iso-b:iam::111122223333:role/app":  "",
		"arn:aws-eusc:iam::111122223333:role/app":   "",
		"arn:minio:iam:::role/idp-1":                "",
		"arn:minio:iam::minio:role/idp":             no,
		role + strings.Repeat("a", 2048-len(role)):  "",
		role + strings.Repeat("a", 2049-len(role)):  "is longer than the 2048 characters that STS accepts",

		"arn:aws:iam::111122223333:instance-profile/app":  "%q is an instance profile: name the role in it",
		"arn:aws:sts::111122223333:assumed-role/app/name": "%q is a session of a role: name the role itself, arn:aws:iam::<account>:role/<name>",
		"": no, "app": no, "role/app": no, role: no, role + "/": no, role + "app/": no, role + "team/": no, role + "app ": no, " " + role + "app": no, role + "app\n": no, role + "a b": no,
		role + "té/app": no, `"` + role + `app"`: no,
		"arn:aws:iam::11112222333:role/app":           no, // eleven digits
		"arn:aws:iam::1111222233334:role/app":         no,
		"arn:aws:iam:eu-west-1:111122223333:role/app": no,
		"arn:aws:iam::111122223333:policy/app":        no,
		"arn:aws:iam::111122223333:user/app":          no,
		"arn:aws:iam::<account>:role/app":             no,
		"arn:AWS:iam::111122223333:role/app":          no,
		"ARN:aws:iam::111122223333:role/app":          no,
	} {
		checkMessage(t, arn, CheckRoleARN(arn), want)
	}
}

// checkMessage wants err to say want, in which %q stands for the value; an empty want wants no error.
func checkMessage(t *testing.T, value string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if want = strings.ReplaceAll(want, "%q", strconv.Quote(value)); got != want {
		t.Errorf("%q: %q, want %q", value, got, want)
	}
}
