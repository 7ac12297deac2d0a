// Package names checks the names of AWS roles and regions, and knows what they contain. It has no dependencies, so that
// every program of the module can refuse the same mistakes.
//
// Errors continue a sentence that begins with where the name came from, such as a variable.
package names

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The shapes that AWS, and others with an STS of their own, give to names.
const (
	// RolePattern is the shape of a role's ARN. Its syntax and RegionPattern's are the part of RE2's that CEL and JSON Schema
	// share, for the manifests in deploy.
	RolePattern = `^arn:(?:[a-z][a-z0-9-]*:iam::(\d{12})?:role/(?:[!-~]+/)?[\w+=,.@-]+|minio:iam:[\w-]*::role/[\w+=,.@/-]+)$`

	// RegionPattern is the shape of a region's name, and "aws-global", the SDK's name for the global STS endpoint.
	RegionPattern = `^(?:aws-global|` + region + `)$`

	region = `[a-z]{2,6}(?:-[a-z]+)+-\d{1,2}`
)

var (
	roleShape     = regexp.MustCompile(RolePattern)
	regionShape   = regexp.MustCompile(RegionPattern)
	partitionName = []struct{ prefix, partition string }{
		{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"us-isob-", "aws-iso-b"}, {"us-isof-", "aws-iso-f"},
		{"us-iso-", "aws-iso"}, {"eu-isoe-", "aws-iso-e"}, {"eusc-", "aws-eusc"},
	}
)

// These are compiled at each use: few starts need one. Local zones have the name of a city after the region, and Wavelength
// Zones that of a carrier's network.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-regions-availability-zones.html
func zoneShape() *regexp.Regexp {
	return regexp.MustCompile(`^(` + region + `)(?:[a-z]|-[a-z]{3}-\d[a-z]|-[a-z]+\d*-[a-z]{3}-wlz-\d)$`)
}
func issuerRegion() *regexp.Regexp {
	return regexp.MustCompile(`^https://oidc(?:-fips)?[.-]eks\.([a-z0-9-]+)\.`)
}

// CheckRegion returns what is wrong with the name of a region, or nil. Regions that do not exist yet are accepted.
func CheckRegion(region string) error {
	if regionShape.MatchString(region) {
		return nil
	}
	if meant, why := regionMeant(region); meant != "" {
		return fmt.Errorf("%q %s %s", region, why, meant)
	}
	return fmt.Errorf("%q is not the name of a region, such as eu-west-1", region)
}

// RegionMeant returns the region that a name with a mistake in it certainly means, or "": eu-west-1 for "eu-west-1a", "EU-WEST-1"
// and "eu-west-1\n".
func RegionMeant(region string) string {
	meant, _ := regionMeant(region)
	return meant
}

// regionMeant also returns what is wrong, as the middle of a sentence that ends with the region.
func regionMeant(region string) (meant, why string) {
	if regionShape.MatchString(region) {
		return "", ""
	}
	bare, whys := bareWhys(region)
	if lower := strings.ReplaceAll(strings.ToLower(bare), "_", "-"); lower != bare {
		bare, whys = lower, append(whys, "has capital letters or underscores")
	}
	if zone := zoneShape().FindStringSubmatch(bare); zone != nil {
		return zone[1], strings.Join(append(whys, "is an availability zone"), " and ") + ": its region is"
	}
	if !regionShape.MatchString(bare) {
		return "", ""
	}
	return bare, strings.Join(whys, " and ") + "; use"
}

// ZoneRegion returns the region that an availability zone is in, or "" for what is not the name of a zone, such as its ID.
func ZoneRegion(zone string) string {
	if m := zoneShape().FindStringSubmatch(zone); m != nil {
		return m[1]
	}
	return ""
}

// Partition returns the partition of a region: aws, aws-cn, aws-us-gov and so on.
func Partition(region string) string {
	for _, p := range partitionName {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}

// CheckRoleARN returns what is wrong with the ARN of a role, or nil. It accepts every partition, and the role ARNs of MinIO
// and Ceph, which have no account.
func CheckRoleARN(arn string) error {
	if len(arn) > maxRoleARN {
		return fmt.Errorf("is longer than the %d characters that STS accepts", maxRoleARN)
	}
	if roleShape.MatchString(arn) && !strings.Contains(arn, ",arn:") { // which a path may contain, and none does
		return nil
	}
	if meant, why := roleMeant(arn); meant != "" {
		return fmt.Errorf("%q %s; use %s", arn, why, meant)
	}
	return fmt.Errorf("%q %s", arn, notARole(arn))
}

// maxRoleARN is what STS accepts, in characters.
const maxRoleARN = 2048

// RoleARNMeant returns the role's ARN that a text with a mistake in it certainly means, or "": a text with white space or
// quotes around the ARN, for example.
func RoleARNMeant(arn string) string {
	meant, _ := roleMeant(arn)
	return meant
}

// roleMeant also returns what is wrong, as a predicate.
func roleMeant(arn string) (meant, why string) {
	if len(arn) > maxRoleARN || roleShape.MatchString(arn) {
		return "", ""
	}
	bare, whys := bareWhys(arn)
	fields := strings.SplitN(bare, ":", 6)
	if len(fields) == 5 && strings.EqualFold(fields[2], "iam") {
		fields = slices.Insert(fields, 3, "")
		whys = append(whys, "lacks a colon after iam")
	}
	if len(fields) != 6 || !strings.EqualFold(fields[0], "arn") || !strings.EqualFold(fields[2], "iam") {
		return "", ""
	}
	kind, name, _ := strings.Cut(fields[5], "/")
	written := strings.Join(fields[:4], ":") + kind
	for i := range fields[:4] {
		fields[i] = strings.ToLower(fields[i])
	}
	kind = strings.ToLower(kind)
	if strings.Join(fields[:4], ":")+kind != written {
		whys = append(whys, "has capital letters where AWS has small ones")
	}
	if fields[3] != "" && regionShape.MatchString(fields[3]) {
		fields[3] = ""
		whys = append(whys, "contains a region, which no role has")
	}
	if digits := strings.ReplaceAll(fields[4], "-", ""); digits != fields[4] {
		fields[4] = digits
		whys = append(whys, "has hyphens in the account")
	}
	fields[5] = kind + "/" + name
	if meant = strings.Join(fields, ":"); !roleShape.MatchString(meant) {
		return "", ""
	}
	return meant, strings.Join(whys, " and ")
}

// notARole says what a text is that is not the ARN of a role, as a predicate. It quotes no part: a secret in the wrong
// variable is masked only where it is whole.
func notARole(arn string) string {
	const role = "arn:aws:iam::<account>:role/<name>"
	bare, _ := bareWhys(arn)
	fields := strings.SplitN(bare, ":", 6)
	switch {
	case strings.ContainsAny(bare, "<>${}"):
		return "contains a placeholder that was never filled in"
	case strings.Count(bare, "arn:") > 1:
		return "contains more than one ARN; expected one"
	case fields[0] != "arn" && isDigits(bare):
		return "is the number of an account; use the role's ARN, " + role
	case strings.HasPrefix(bare, "AROA") && !strings.Contains(bare, "/"):
		return "is the ID of a role; use its ARN, " + role
	case strings.Contains(bare, "://"):
		return "is a URL; use the role's ARN, " + role
	case strings.HasPrefix(bare, "role/"), strings.HasPrefix(bare, "/") && !strings.Contains(bare, "."):
		return "is the end of a role's ARN; use all of it, " + role
	case fields[0] != "arn" && len(bare) <= maxRoleName && nameShape().MatchString(bare):
		return "is the name of a role; use its ARN, " + role
	case len(fields) == 6 && fields[0] == "arn":
		return notARolesARN(fields)
	}
	return "is not a role's ARN, such as arn:aws:iam::111122223333:role/app"
}

// maxRoleName is IAM's limit, in characters.
const maxRoleName = 64

func nameShape() *regexp.Regexp { return regexp.MustCompile(`^[\w+=,.@-]+$`) }

// notARolesARN is [notARole] for the six fields of an ARN.
func notARolesARN(fields []string) string {
	partition, service, account := fields[1], fields[2], fields[4]
	kind, name, _ := strings.Cut(fields[5], "/")
	switch {
	case service == "sts" && kind == "assumed-role":
		name, _, _ = strings.Cut(name, "/")
		role := "arn:" + partition + ":iam::" + account + ":role/" + name
		if !roleShape.MatchString(role) {
			role = "arn:aws:iam::<account>:role/<name>"
		}
		return "is a session of a role; use the role's own ARN, " + role + ", with its path if it has one"
	case service != "iam":
		return "is an ARN of another service; a role's begins with arn:aws:iam::"
	}
	kinds := map[string]string{
		"instance-profile": "an instance profile; use the ARN of the role in it", "policy": "a policy; use the ARN of a role that has it",
		"user": "a user", "group": "a group", "root": "an account", "oidc-provider": "an OIDC provider; use the ARN of a role that trusts it",
		"saml-provider": "a SAML provider", "server-certificate": "a certificate", "mfa": "an MFA device",
	}
	switch {
	case kinds[kind] == "" && kind != "role":
		return "has something else where a role's ARN has role/<name>"
	case kind != "role" && strings.Contains(kinds[kind], ";"):
		return "is " + kinds[kind]
	case kind != "role":
		return "is " + kinds[kind] + "; use the ARN of a role"
	case !isDigits(account):
		return "has something else where the account belongs, which is 12 digits"
	case len(account) != 12:
		return fmt.Sprintf("has an account of %d digits; expected 12", len(account))
	case strings.Trim(name, "/") == "":
		return "has no name after role/"
	}
	return "is not a role's ARN, such as arn:aws:iam::111122223333:role/app"
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Bare returns a value without the white space and quotes around it and without characters that cannot be seen, and what it
// has of those, as a predicate: "ends with a line break". That is empty if the value has none.
func Bare(value string) (bare, why string) {
	bare, whys := bareWhys(value)
	return bare, strings.Join(whys, " and ")
}

func bareWhys(value string) (bare string, whys []string) {
	seen := strings.Map(func(r rune) rune {
		if invisible(r) {
			why := fmt.Sprintf("contains the invisible character %U", r)
			if !slices.Contains(whys, why) {
				whys = append(whys, why)
			}
			return -1
		}
		return r
	}, value)
	for bare = seen; ; {
		before := bare
		if bare = strings.TrimLeftFunc(bare, unicode.IsSpace); bare != before {
			whys = append(whys, "begins with "+spaceName(before))
		}
		if trimmed := strings.TrimRightFunc(bare, unicode.IsSpace); trimmed != bare {
			whys = append(whys, "ends with "+spaceName(bare[len(trimmed):]))
			bare = trimmed
		}
		if trimmed := strings.Trim(bare, "\"'`“”‘’"); trimmed != bare {
			whys = append(whys, "is in quotes")
			bare = trimmed
		}
		if bare == before {
			return bare, whys
		}
	}
}

// spaceName is what people call the white space that a text begins with.
func spaceName(s string) string {
	switch r, _ := utf8.DecodeRuneInString(s); r {
	case '\n', '\r':
		return "a line break"
	case '\t':
		return "a tab"
	case ' ':
		return "a blank"
	default:
		return fmt.Sprintf("the blank %U", r)
	}
}

// invisible reports whether a character takes no room on a screen: a zero-width space, a byte order mark, a direction mark.
func invisible(r rune) bool { return unicode.Is(unicode.Cf, r) || r == 0 }

// RolePartition returns the partition in the ARN of a role, or "".
func RolePartition(arn string) string {
	_, rest, _ := strings.Cut(arn, ":")
	partition, _, _ := strings.Cut(rest, ":")
	return partition
}

// RoleAccount returns the account in the ARN of a role, or "": roles of MinIO and Ceph have none.
func RoleAccount(arn string) string {
	if m := roleShape.FindStringSubmatch(arn); m != nil {
		return m[1]
	}
	return ""
}

// RegionOfIssuer returns the region in the issuer URL of an EKS cluster, or "".
func RegionOfIssuer(issuer string) string {
	if m := issuerRegion().FindStringSubmatch(issuer); m != nil && CheckRegion(m[1]) == nil {
		return m[1]
	}
	return ""
}
