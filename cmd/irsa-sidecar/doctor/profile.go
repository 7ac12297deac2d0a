package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// maxShared is longer than any file of profiles that people write, in bytes.
const maxShared = 1 << 20

// sharedFile is one of the two files that clients read profiles from.
type sharedFile struct {
	variable string // that names it
	path     string // empty if it is not known
	config   bool   // in which sections other than [default] are called [profile name]
}

// sharedFiles returns where the app's clients look for profiles.
func (a *App) sharedFiles() []sharedFile {
	files := []sharedFile{{variable: "AWS_SHARED_CREDENTIALS_FILE"}, {variable: "AWS_CONFIG_FILE", config: true}}
	for i := range files {
		home := a.Env["HOME"]
		if home == "" {
			home = a.Env["USERPROFILE"]
		}
		switch path := a.Env[files[i].variable]; {
		case path != "":
			files[i].path = expand(path, home)
		case home != "" && !a.hidden(files[i].variable):
			files[i].path = filepath.Join(home, sources.Files[i])
		}
	}
	return files
}

// expand replaces a ~ at the beginning of a path, as most clients do.
func expand(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok && home != "" {
		return filepath.Join(home, rest)
	}
	return path
}

// profile returns the selected profile, and the variable that selects it. Botocore reads the old variable first.
func (a *App) profile() (name, variable string) {
	for _, variable := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if a.has(variable) {
			return a.Env[variable], variable
		}
	}
	return "default", ""
}

// checkAppProfile looks for credentials in the selected profile. If last is true, no variable leads to another output.
func (e *examination) checkAppProfile(ctx context.Context, last bool) (o origin) {
	e.checkOldFiles()
	files := e.App.sharedFiles()
	if !slices.ContainsFunc(files, func(f sharedFile) bool { return e.inReach(f.path) }) {
		e.checkUnseenProfile()
		return o
	}
	profile, selected := e.App.profile()
	if selected != "" && e.App.hidden(selected) {
		e.warn("profile", ProfileSet, selected+" is set, to a value that is not known here: clients try that profile before the sidecar")
		return o
	}
	if other := e.App.Env["AWS_DEFAULT_PROFILE"]; selected == "AWS_PROFILE" && other != "" && other != profile {
		e.warn("profile", ProfileSet, fmt.Sprintf("AWS_DEFAULT_PROFILE=%s differs from AWS_PROFILE=%s; boto3 and the AWS CLI take it, others do not", other, profile),
			e.setEnv("remove it", appContainer, "AWS_DEFAULT_PROFILE-"))
	}
	exists, before := false, len(e.findings)
	var read []string
	for _, file := range files {
		if file.path == "" {
			continue
		}
		if !e.inReach(file.path) {
			e.warnUnseen(file)
			continue
		}
		content, info, err := regular.Read(file.path, maxShared)
		named := !file.config && e.App.has(file.variable)
		switch {
		case err == nil:
			read = append(read, file.path)
			if why := malformed(string(content)); why != "" {
				e.fail("profile", SharedFile, fmt.Sprintf("%s %s: boto3 and the AWS CLI fail to read it, whatever the profile, and others may", file.path, why),
					Fix{What: "correct the file, or remove it"})
			}
			found, settings := file.settings(string(content), profile)
			has, own := kindOfCredentials(settings), written(string(content))
			exists = exists || found
			if _, ours := file.credentials(own, profile); ours == accessKeys {
				return e.checkWritten(ctx, file, own, profile, info)
			}
			if p, asks := askingProcess(settings["credential_process"]); has == sidecarProcess && asks {
				return e.checkProcess(file, profile, p)
			}
			if has != "" {
				e.reportProfile(file, profile, selected, has)
				return o
			}
			if named && own != "" && !found && selected == "" {
				o = e.checkUnwritten(file, profile, true, last)
			}
			if _, has := file.credentials(string(content), "default"); selected == "AWS_DEFAULT_PROFILE" && has != "" && has != emptyKeys {
				e.warn("profile", SharedFile, fmt.Sprintf("%s has %s in [default]: clients that don't read AWS_DEFAULT_PROFILE, such as JavaScript's, use those", file.path, has),
					Fix{What: "remove the profile [default] from the file"})
			}
		case errors.Is(err, fs.ErrNotExist) && named && last && selected == "":
			o = e.checkUnwritten(file, profile, false, last)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, regular.ErrNotRegular): // such as /dev/null
		case errors.Is(err, regular.ErrDirectory):
			e.warn("profile", SharedFile, file.path+" is a directory, not a file: Go v2 fails, others ignore it",
				Fix{What: "remove the directory; if a volume is mounted there, mount the one file with subPath"})
		default:
			if info, owner, known := forbidden(file.path, err); known && named {
				e.warn("profile", SharedFile, file.path+" "+unreadable(info, owner, os.Geteuid()), e.fixFileMode())
				continue
			}
			e.warn("profile", SharedFile, fmt.Sprintf("%s %v: an app that can read it may use it and not ask the sidecar", file.path, err))
			return o
		}
	}
	e.checkHomeOnly(profile)
	switch {
	case selected != "" && !exists:
		e.fail("profile", ProfileSet, fmt.Sprintf("%s=%s, and there is no such profile%s: %s, and others ignore it", selected, profile, in(read), failing(selected)),
			e.setEnv("remove it, so that clients find the sidecar", appContainer, selected+"-"))
	case len(e.findings) > before: // of the files
	case len(read) == 0:
		e.ok("profile", "no file of profiles")
	default:
		e.ok("profile", "[%s]%s has no credentials", profile, in(read))
	}
	return o
}

// failing says who fails if the profile that a variable selects does not exist.
func failing(variable string) string {
	if variable == "AWS_PROFILE" {
		return "boto3, the AWS CLI and Go v2 fail"
	}
	return "boto3 and the AWS CLI fail"
}

// loadConfig lets the clients read all files that are ConfigOnDemand or HomeOnly.
const loadConfig = "AWS_SDK_LOAD_CONFIG"

// checkHomeOnly looks for credentials in ~/.aws/credentials if a variable names another file, which some clients ignore.
func (e *examination) checkHomeOnly(profile string) {
	const variable = "AWS_SHARED_CREDENTIALS_FILE"
	home := e.App.Env["HOME"]
	if home == "" || !e.App.has(variable) || e.App.has(loadConfig) {
		return
	}
	file := sharedFile{path: filepath.Join(home, sources.Files[0])}
	content, _, err := regular.Read(file.path, maxShared)
	if _, has := file.credentials(string(content), profile); err == nil && has != "" && has != emptyKeys {
		e.warn("profile", SharedFile, fmt.Sprintf("%s has %s in [%s]: %s may use those, as it ignores %s without %s", file.path, has, profile,
			list(sources.Those(func(c *sources.Client) bool { return c.HomeOnly })), variable, loadConfig),
			Fix{What: "remove the file: from the image, or the volume that is mounted there"})
	}
}

func in(files []string) string {
	if len(files) == 0 {
		return ""
	}
	return " in " + list(files)
}

// reportProfile reports credentials in the selected profile.
func (e *examination) reportProfile(file sharedFile, profile, selected, has string) {
	text := fmt.Sprintf("%s has %s in [%s]", file.path, has, profile)
	if selected != "" {
		text += ", which " + selected + " selects"
	}
	if has == roleFromContainer {
		e.warn("profile", SharedFile, text+": clients ask the sidecar and then assume that role with its credentials")
		return
	}
	var fixes []Fix
	but := ""
	if !file.config {
		but = allBut(list(sources.Those(func(c *sources.Client) bool { return c.HomeOnly })))
	}
	switch {
	case selected != "" && profile != "default":
		fixes = append(fixes, e.setEnv("do not select that profile", appContainer, removed(e.App.set("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))...))
	case e.App.has(file.variable):
		fixes = append(fixes, e.setEnv("remove the variable, and the file if nothing else uses it", appContainer, file.variable+"-"))
	default:
		fixes = append(fixes, Fix{What: "remove the file: from the image, or the volume that is mounted there"},
			e.setEnv("or have clients read an empty file instead"+but, appContainer, file.variable+"=/dev/null"))
	}
	if file.config && e.App.has(file.variable) {
		fixes = append(fixes, Fix{What: "if it is the sidecar's file: set " + configVariable + " for the sidecar's container alone, not for the whole Pod, as a ConfigMap in envFrom of each container does"})
	}
	switch has {
	case loneRole:
		text += ": boto3 and the AWS CLI fail, Go v2 assumes that role with the sidecar's credentials, and others may ask the sidecar"
	case emptyKeys:
		text += ": boto3 and the AWS CLI take it for the key and fail, others ask the sidecar"
	case halfKeys:
		text += ": boto3, the AWS CLI and Go v2 fail, others ask the sidecar"
	default:
		if selected == "AWS_DEFAULT_PROFILE" {
			v, _ := sources.Find(selected)
			text += ": " + v.By + " use those and never ask the sidecar"
			break
		}
		text += ": clients use those and never ask the sidecar" + allBut(e.sparedBy(file))
	}
	e.fail("profile", SharedFile, text, fixes...)
}

// sparedBy names the clients that ask the sidecar although the file has credentials.
func (e *examination) sparedBy(file sharedFile) string {
	onDemand := !e.App.has(loadConfig)
	named := e.App.has(file.variable)
	return list(sources.Those(func(c *sources.Client) bool {
		return c.Order != nil && !c.GoesBefore(sources.Profile) ||
			onDemand && (file.config && c.ConfigOnDemand || !file.config && named && c.HomeOnly)
	}))
}

// set returns those of the variables that are set.
func (a *App) set(variables ...string) []string {
	return slices.DeleteFunc(variables, func(name string) bool { return !a.has(name) })
}

// checkUnseenProfile is checkAppProfile for an app whose files cannot be read.
func (e *examination) checkUnseenProfile() {
	warned := false
	for _, name := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if e.App.has(name) {
			warned = true
			e.warn("profile", ProfileSet, fmt.Sprintf("%s=%s selects a profile, whose files cannot be read from here: if it has credentials, clients never ask the sidecar; if it does not exist, %s", name, e.App.Env[name], failing(name)),
				e.setEnv("remove it, so that clients find the sidecar", appContainer, name+"-"))
		}
	}
	for _, file := range e.App.sharedFiles() {
		warned = e.warnUnseen(file) || warned
	}
	for _, path := range e.App.Files {
		if sources.IsShared(path) {
			warned = true
			e.warn("profile", SharedFile, path+" exists in the app's container, and cannot be read from here: if it has credentials in [default], clients never ask the sidecar")
		}
	}
	if !warned {
		e.ok("profile", "no variable selects a profile or a file of profiles (~/.aws in the app's container is not visible here)")
	}
}

// warnUnseen warns of a file that a variable names and that cannot be read from here.
func (e *examination) warnUnseen(file sharedFile) bool {
	if !e.App.has(file.variable) || file.path == "/dev/null" {
		return false
	}
	why := "cannot be read from here: if its profile has credentials, clients never ask the sidecar"
	if file.config && e.App.Env[file.variable] == e.Getenv(configVariable) && e.Getenv(configVariable) != "" {
		why = "is where the sidecar has its own file: a client that can read it assumes the roles in it itself, or fails, and does not ask the sidecar"
	}
	e.warn("profile", SharedFile, fmt.Sprintf("%s=%s %s", file.variable, e.App.Env[file.variable], why),
		e.setEnv("remove the variable if the app does not need it", appContainer, file.variable+"-"))
	return true
}

// checkOldFiles warns of variables that few clients read.
func (e *examination) checkOldFiles() {
	for _, name := range []string{"AWS_CREDENTIAL_FILE", "AWS_CREDENTIAL_PROFILES_FILE"} {
		if v, _ := sources.Find(name); e.App.has(name) {
			e.warn("profile", SharedFile, fmt.Sprintf("%s names a file of credentials, which %s may use instead of the sidecar", name, v.By),
				e.setEnv("remove it", appContainer, name+"-"))
		}
	}
}

// Kinds of credentials that not all clients use.
const (
	roleFromContainer = "a role with credential_source = EcsContainer"
	loneRole          = "a role_arn without source_profile or credential_source"
	halfKeys          = "aws_access_key_id without aws_secret_access_key"
	emptyKeys         = "an empty aws_access_key_id"
)

// Kinds that may be the sidecar's own.
const (
	accessKeys     = "access keys"
	sidecarProcess = "a credential_process that runs irsa-sidecar by itself"
)

// malformed says what Python's configparser, and so botocore, does not accept in a file of profiles, or "". It quotes
// nothing, as any line may be a secret.
// https://docs.python.org/3/library/configparser.html#supported-ini-file-structure
func malformed(content string) string {
	if strings.HasPrefix(content, "\ufeff") {
		return "begins with a byte order mark"
	}
	seen := make(map[string]bool)
	section, setting, number := "", false, 0
	for line := range strings.Lines(content) {
		number++
		text := strings.TrimSpace(line)
		end := strings.LastIndexByte(text, ']')
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
		case setting && (line[0] == ' ' || line[0] == '\t'): // the value goes on
		case text[0] == '[' && end > 1:
			section, setting = text[:end+1], false
			if seen[section] {
				return fmt.Sprintf("has a section for the second time in line %d", number)
			}
			seen[section] = true
		case section == "":
			return fmt.Sprintf("has text before the first [section], in line %d", number)
		default:
			name, _, found := cutSetting(text)
			if !found {
				return fmt.Sprintf("has no = in line %d", number)
			}
			if seen[section+name] {
				return fmt.Sprintf("has a setting for the second time in line %d", number)
			}
			seen[section+name], setting = true, true
		}
	}
	return ""
}

// cutSetting splits a line as botocore and Go do, which take a colon too.
func cutSetting(line string) (name, value string, found bool) {
	at := strings.IndexAny(line, "=:")
	if at < 0 {
		return strings.ToLower(line), "", false
	}
	return strings.ToLower(strings.TrimSpace(line[:at])), strings.TrimSpace(line[at+1:]), true
}

// credentials reports whether the file has a profile, and says what kind of credentials the profile has: "" for none. Values
// are not returned, as any of them may be a secret.
// https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
func (f *sharedFile) credentials(content, profile string) (found bool, has string) {
	found, values := f.settings(content, profile)
	return found, kindOfCredentials(values)
}

// settings returns what a profile in the file has, by lower-case key.
func (f *sharedFile) settings(content, profile string) (found bool, values map[string]string) {
	values = make(map[string]string)
	ours, nested := false, false
	for line := range strings.Lines(strings.TrimPrefix(content, "\ufeff")) {
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
		case text[0] == '[':
			ours, nested = f.isSection(text, profile), false
			found = found || ours
		case ours:
			key, value, _ := cutSetting(text)
			if nested && (line[0] == ' ' || line[0] == '\t') { // settings of one service, such as "s3 ="
				continue
			}
			nested = value == ""
			values[key] = value
		}
	}
	return found, values
}

// isSection reports whether a line begins the section of a profile.
func (f *sharedFile) isSection(line, profile string) bool {
	line, _, closed := strings.Cut(line[1:], "]")
	name := strings.Fields(line)
	if !closed || len(name) == 0 {
		return false
	}
	if f.config && len(name) > 1 && name[0] == "profile" {
		name = name[1:]
	} else if f.config && name[0] != "default" {
		return false
	}
	return strings.Trim(strings.Join(name, " "), `"'`) == profile
}

// kindOfCredentials says what a client makes of a profile, the first thing first.
func kindOfCredentials(profile map[string]string) string {
	has := func(key string) bool { return profile[key] != "" }
	switch {
	case has("role_arn") && has("web_identity_token_file"):
		return "a role with web_identity_token_file"
	case has("role_arn") && strings.EqualFold(profile["credential_source"], "EcsContainer"):
		return roleFromContainer
	case has("role_arn") && has("source_profile"):
		return "a role with source_profile"
	case has("role_arn") && has("credential_source"):
		return "a role with credential_source"
	case has("aws_access_key_id") && has("aws_secret_access_key"):
		return accessKeys
	case has("aws_access_key_id"):
		return halfKeys
	case has("role_arn") && !has("sso_session") && !has("sso_start_url") && !has("login_session") && !has("credential_process"):
		return loneRole
	case has("sso_session"), has("sso_start_url"):
		return "an SSO login"
	case has("login_session"):
		return "a login session"
	case strings.Contains(profile["credential_process"], "irsa-sidecar"):
		return sidecarProcess
	case has("credential_process"):
		return "a credential_process"
	}
	if _, present := profile["aws_access_key_id"]; present {
		return emptyKeys
	}
	return ""
}
