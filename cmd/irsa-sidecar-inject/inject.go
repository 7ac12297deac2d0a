package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/deploy"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// podSpecs has the kinds that contain a Pod, with their group, and the path to its metadata and spec. Other groups have
// kinds with these names too, such as Volcano's Job.
var podSpecs = map[string][]string{
	"Pod":              {},
	"apps/Deployment":  {"spec", "template"},
	"apps/StatefulSet": {"spec", "template"},
	"apps/DaemonSet":   {"spec", "template"},
	"apps/ReplicaSet":  {"spec", "template"},
	"batch/Job":        {"spec", "template"},
	"batch/CronJob":    {"spec", "jobTemplate", "spec", "template"},
}

// pathToPod returns the path to the Pod in an object.
func (o *object) pathToPod() (path []string, known bool) {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	kind := group + "/" + o.Kind
	if o.APIVersion == "v1" {
		kind = o.Kind
	}
	path, known = podSpecs[kind]
	return path, known
}

// inject adds the sidecar to every object in a stream of YAML that contains a Pod. It returns a note for people about each
// of them. If it fails, it returns neither output nor notes.
//
// It edits the text instead of printing the objects, so that everything else keeps every byte. In the end it compares the
// new text with the same change made to the objects.
func inject(input []byte, parts deploy.Parts) (output []byte, notes []string, err error) {
	// The YAML library counts these as line ends too.
	if i := bytes.IndexAny(bytes.ReplaceAll(input, []byte("\r\n"), []byte("\n\n")), "\r\u0085\u2028\u2029"); i >= 0 {
		return nil, nil, fmt.Errorf("line %d ends with something other than a line feed (a carriage return alone, or U+0085, U+2028 or U+2029)", 1+bytes.Count(input[:i], []byte("\n")))
	}
	input, marked := bytes.CutPrefix(input, []byte(byteOrderMark))
	documents, err := decode(input)
	if err != nil {
		return nil, nil, err
	}
	j := &injector{parts: parts, accounts: map[string]map[string]string{}, disabled: map[string]bool{}, edit: newEdit(input)}
	var objects []*object
	for number, document := range documents {
		found, err := objectsIn(document, number+1)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 && !slices.ContainsFunc(documents, isList) {
		return nil, nil, errors.New("no Kubernetes object on standard input; usage: irsa-sidecar-inject < app.yaml")
	}
	for _, o := range objects {
		j.register(o)
	}
	for _, o := range objects {
		if err := j.object(o); err != nil {
			return nil, nil, fmt.Errorf("line %d: %s: %w", o.node.Line, o, err)
		}
	}
	if !slices.ContainsFunc(objects, func(o *object) bool { _, known := o.pathToPod(); return known }) {
		j.note("nothing to inject: no Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob or Pod in the input")
	}
	output = j.edit.apply()
	if err := compare(documents, output); err != nil {
		return nil, nil, err
	}
	if marked {
		output = append([]byte(byteOrderMark), output...)
	}
	return output, j.notes, nil
}

const byteOrderMark = "\ufeff"

// compare checks that the text has the content of the changed documents.
func compare(want []*yaml.Node, text []byte) error {
	have, err := decode(text)
	if err != nil {
		return fmt.Errorf("cannot edit this layout (the result would be broken: %w): write initContainers, containers, env and volumes the usual way", err)
	}
	for i := range max(len(want), len(have)) {
		var a, b any
		if i < len(want) && i < len(have) && want[i].Decode(&a) == nil && have[i].Decode(&b) == nil && reflect.DeepEqual(a, b) {
			continue
		}
		return fmt.Errorf("document %d: cannot edit this layout: write initContainers, containers, env and volumes the usual way, without anchors", i+1)
	}
	return nil
}

// decode reads all documents. Line numbers count from the beginning of the stream.
func decode(input []byte) (documents []*yaml.Node, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(input)); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if err == io.EOF {
			return documents, nil
		}
		if err == nil {
			var value any
			err = document.Decode(&value) // finds duplicate keys
		}
		if err != nil {
			hint := ""
			if bytes.Contains(input, []byte("{{")) {
				hint = "; render templates first: helm template … | irsa-sidecar-inject"
			}
			return nil, fmt.Errorf("document %d is not YAML: %s%s", len(documents)+1, oneLine(err), hint)
		}
		documents = append(documents, &document)
	}
}

// oneLine returns an error of the YAML library on one line, without the library's name.
func oneLine(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n  ")
	return strings.ReplaceAll(text, "\n  ", "; ")
}

// object is a Kubernetes object in the input.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
	node       *yaml.Node
}

type metadata struct {
	Name         string
	GenerateName string `yaml:"generateName"`
	Namespace    string
	Labels       map[string]string
	Annotations  map[string]string
}

func (o *object) String() string {
	name := o.Metadata.Name
	switch {
	case name != "":
	case o.Metadata.GenerateName != "":
		name = o.Metadata.GenerateName + "…"
	default:
		name = "without a name"
	}
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	return o.Kind + " " + name
}

// objectsIn returns the object in a document, or those in a List.
func objectsIn(n *yaml.Node, number int) ([]*object, error) {
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil, nil // nothing, or only comments
	}
	o := object{node: n}
	if n.Kind != yaml.MappingNode || field(n, "kind") == nil || field(n, "apiVersion") == nil {
		return nil, fmt.Errorf("line %d: document %d is not a Kubernetes object: apiVersion or kind is missing", n.Line, number)
	}
	if err := n.Decode(&o); err != nil {
		return nil, fmt.Errorf("line %d: document %d is not a Kubernetes object: %s", n.Line, number, oneLine(err))
	}
	if !isList(n) {
		return []*object{&o}, nil
	}
	var all []*object
	for _, item := range field(n, "items").Content {
		found, err := objectsIn(item, number)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func isList(n *yaml.Node) bool {
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	return strings.HasSuffix(text(field(n, "kind")), "List") && field(n, "items") != nil
}

type injector struct {
	parts    deploy.Parts
	accounts map[string]map[string]string // the annotations of service accounts in the input, by namespace/name
	disabled map[string]bool              // namespaces in the input that keep the sidecar out
	edit     *edit
	notes    []string
}

func (j *injector) note(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

// register records what an object says about others.
func (j *injector) register(o *object) {
	switch o.Kind {
	case "ServiceAccount":
		j.accounts[o.Metadata.Namespace+"/"+o.Metadata.Name] = o.Metadata.Annotations
	case "Namespace":
		j.disabled[o.Metadata.Name] = o.Metadata.Labels[deploy.InjectLabel] == deploy.Disabled
	}
}

// object adds the sidecar to an object, in its node and in the text.
func (j *injector) object(o *object) error {
	path, known := o.pathToPod()
	if !known {
		if at(o.node, "spec", "template", "spec", "containers") != nil {
			j.note("%s: unchanged: it contains Pods, but its kind is unknown", o)
		}
		return nil
	}
	pod := at(o.node, path...)
	spec := field(pod, "spec")
	if containers := field(spec, "containers"); containers == nil || containers.Kind != yaml.SequenceNode || len(containers.Content) == 0 {
		return fmt.Errorf("no containers at %s", strings.Join(append(slices.Clone(path), "spec", "containers"), "."))
	}
	if err := checkLayout(pod, spec); err != nil {
		return err
	}
	switch sidecar, native := findSidecar(spec); {
	case native:
		for _, c := range allContainers(spec) {
			if c != sidecar {
				j.noteOutputs(fmt.Sprintf("%s: container %s", o, text(field(c, "name"))), variables(c), variables(sidecar), false)
			}
		}
		j.note("%s: unchanged: it already has the sidecar (image %s)", o, text(field(sidecar, "image")))
		return nil
	case sidecar != nil:
		return fmt.Errorf("line %d: a container is named %s but is not a native sidecar: rename it", sidecar.Line, deploy.Name)
	}
	var template struct{ Metadata metadata }
	if err := pod.Decode(&template); err != nil {
		return fmt.Errorf("the metadata of its Pods cannot be read: %s", oneLine(err))
	}
	switch {
	case template.Metadata.Labels[deploy.InjectLabel] == deploy.Disabled:
		j.note("%s: unchanged: its Pods have the label %s: %s", o, deploy.InjectLabel, deploy.Disabled)
		return nil
	case j.disabled[o.Metadata.Namespace]:
		j.note("%s: unchanged: its namespace has the label %s: %s", o, deploy.InjectLabel, deploy.Disabled)
		return nil
	}
	parts, role, err := j.partsFor(o, spec)
	if err != nil {
		return err
	}
	served, err := j.change(spec, parts, strings.Split(template.Metadata.Annotations[deploy.SkipAnnotation], ","), o)
	if err != nil {
		return err
	}
	if served != nil {
		role += fmt.Sprintf("; %s of %s", sources.Endpoint.Name, strings.Join(served, ", "))
	}
	j.note("%s: sidecar added; %s", o, role)
	return nil
}

// checkLayout refuses what cannot be edited without changing its meaning.
func checkLayout(pod, spec *yaml.Node) error {
	for _, n := range []*yaml.Node{pod, spec} {
		if err := checkMerge(n); err != nil {
			return err
		}
	}
	if initContainers := field(spec, "initContainers"); initContainers != nil && !isNull(initContainers) && initContainers.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: initContainers is not a list", initContainers.Line)
	}
	for _, c := range allContainers(spec) {
		if err := checkMerge(c); err != nil {
			return err
		}
		if c.Kind == yaml.AliasNode {
			return fmt.Errorf("line %d: *%s is an alias for a container: write the container out", c.Line, c.Value)
		}
		if c.Kind != yaml.MappingNode {
			return fmt.Errorf("line %d: a container needs a name and an image", c.Line)
		}
	}
	return nil
}

// checkMerge refuses a merge: a key that is added beside it would hide a merged one.
func checkMerge(n *yaml.Node) error {
	if k := keyOf(n, "<<"); k >= 0 {
		return fmt.Errorf("line %d: << merges keys in here: write them out", n.Content[k].Line)
	}
	return nil
}

// findSidecar returns the container with the sidecar's name, or nil, and whether it is a native sidecar.
func findSidecar(spec *yaml.Node) (sidecar *yaml.Node, native bool) {
	initContainers := field(spec, "initContainers")
	for _, c := range allContainers(spec) {
		if text(field(c, "name")) == deploy.Name {
			return c, text(field(c, "restartPolicy")) == "Always" && initContainers != nil && slices.Contains(initContainers.Content, c)
		}
	}
	return nil, false
}

// allContainers returns the init containers and then the others.
func allContainers(spec *yaml.Node) (all []*yaml.Node) {
	for _, key := range []string{"initContainers", "containers"} {
		if list := field(spec, key); list != nil {
			all = append(all, list.Content...)
		}
	}
	return all
}

// partsFor returns the parts with the role and the region for an object, and where the role comes from.
func (j *injector) partsFor(o *object, spec *yaml.Node) (parts deploy.Parts, role string, err error) {
	parts = j.parts
	account := cmp.Or(text(field(spec, "serviceAccountName")), text(field(spec, "serviceAccount")), "default") // the second is its old name
	annotations, known := j.accounts[o.Metadata.Namespace+"/"+account]
	if parts.Region == "" && annotations[deploy.RegionAnnotation] != "" {
		parts.Region = annotations[deploy.RegionAnnotation]
		if err := names.CheckRegion(parts.Region); err != nil {
			return parts, "", fmt.Errorf("annotation %s of service account %s: %w", deploy.RegionAnnotation, account, err)
		}
	}
	annotated := annotations[deploy.RoleAnnotation]
	switch {
	case parts.RoleARN != "":
		role = "role " + parts.RoleARN
	case annotated != "":
		if err := names.CheckRoleARN(annotated); err != nil {
			return parts, "", fmt.Errorf("annotation %s of service account %s: %w", deploy.RoleAnnotation, account, err)
		}
		parts.RoleARN, role = annotated, fmt.Sprintf("role %s from service account %s", annotated, account)
	case known:
		return parts, "", fmt.Errorf("its service account %s has no role: annotate it with %s, or use --role-arn", account, deploy.RoleAnnotation)
	default:
		role = fmt.Sprintf("the EKS webhook sets the role from service account %s (without the webhook, use --role-arn)", account)
	}
	if err := checkPartition(parts); err != nil {
		return parts, "", err
	}
	// Quoted, so that YAML cannot read a value as anything but a string.
	for _, value := range []*string{&parts.RoleARN, &parts.Region, &parts.Image} {
		if *value != "" {
			*value = quote(*value)
		}
	}
	return parts, role, nil
}

// checkPartition refuses a region that no role of AWS's can be used in. Roles without an account are another STS's.
func checkPartition(parts deploy.Parts) error {
	if parts.Region == "" || names.RoleAccount(parts.RoleARN) == "" {
		return nil
	}
	ours, theirs := names.Partition(parts.Region), names.RolePartition(parts.RoleARN)
	if ours != theirs {
		return fmt.Errorf("region %s is in the partition %s, but role %s is in %s", parts.Region, ours, parts.RoleARN, theirs)
	}
	return nil
}

// change adds the sidecar to a Pod's spec. It returns the containers that have nothing in their environment that may keep them
// from its container endpoint.
func (j *injector) change(spec *yaml.Node, parts deploy.Parts, skip []string, o *object) (served []string, err error) {
	sidecar := mapping(parts.Container())
	for _, c := range allContainers(spec) {
		name := text(field(c, "name"))
		if slices.ContainsFunc(skip, func(s string) bool { return strings.TrimSpace(s) == name }) {
			continue
		}
		who, notes := fmt.Sprintf("%s: container %s", o, name), len(j.notes)
		missing := j.missing(c, items(parts.Env()), who)
		if len(j.notes) == notes {
			served = append(served, name)
		}
		j.noteOutputs(who, variables(c), variables(sidecar), true)
		if len(missing) == 0 {
			continue
		}
		after := field(c, "image")
		if after == nil || after.Style&(yaml.FoldedStyle|yaml.LiteralStyle) != 0 || strings.ContainsAny(after.Value, " \n") { // it has several lines
			after = field(c, "name")
		}
		if err := j.edit.prepend(c, "env", missing, place{after: after}); err != nil {
			return nil, err
		}
	}
	if volume := parts.Volume(); volume != "" && !has(field(spec, "volumes"), deploy.TokenVolume) {
		if err := j.edit.prepend(spec, "volumes", items(volume), place{before: "containers"}); err != nil {
			return nil, err
		}
	}
	return served, j.edit.prepend(spec, "initContainers", []*yaml.Node{sidecar}, place{before: "containers"})
}

// missing returns the variables that a container does not set itself. It notes those that it sets otherwise, and what else
// keeps its SDK from asking the sidecar.
func (j *injector) missing(c *yaml.Node, environment []*yaml.Node, who string) (missing []*yaml.Node) {
	set := variables(c)
	for _, entry := range environment {
		variable := text(field(entry, "name"))
		own, there := set[variable]
		delete(set, variable)
		if !there {
			missing = append(missing, entry)
		} else if !sameValue(own, entry) {
			note := ""
			if _, before := sources.Find(variable); before || strings.HasPrefix(variable, "AWS_CONTAINER_") {
				note = "; its SDK may not ask the sidecar"
			}
			j.note("%s sets %s itself, which is kept%s", who, variable, note)
		}
	}
	for _, v := range sources.Before {
		if own := set[v.Name]; isSet(own) && text(field(own, "value")) != devNull {
			j.note("%s sets %s, which %s: its SDK may not ask the sidecar", who, v.Name, v.Why)
		}
	}
	if mounts := field(c, "volumeMounts"); mounts != nil {
		for _, mount := range mounts.Content {
			if path := text(field(resolve(mount), "mountPath")); sources.IsShared(path) {
				j.note("%s mounts %s, where SDKs look for credentials before they ask the sidecar", who, path)
			}
		}
	}
	return missing
}

// noteOutputs notes which of the sidecar's outputs, other than the container endpoint, a container's environment leads to, and
// whether the sidecar, which may be new, has that output on.
func (j *injector) noteOutputs(who string, set, sidecar map[string]*yaml.Node, isNew bool) {
	which := "the sidecar"
	if isNew {
		which = "the sidecar that is added"
	}
	for _, o := range sources.Outputs[1:] {
		own, on := set[o.By], sidecar[o.On]
		path, isFile := text(field(own, "value")), o == sources.File || o == sources.Process
		state := "is not set"
		if isSet(on) {
			state = "names another path"
		}
		switch {
		case !isSet(own), path == devNull:
		case isSet(on) && (!isFile || path == text(field(on, "value"))):
			j.note("%s uses the sidecar's output %s, as it sets %s", who, o.Name, o.By)
		default:
			j.note("%s sets %s, and %s gives no credentials there: its %s %s; remove the variable if the program knows the container endpoint, or set up the output %s by hand: docs/programs.md#%s",
				who, o.By, which, o.On, state, o.Name, o.Section)
		}
	}
}

// devNull is an empty file in a container, whatever this program runs on.
const devNull = "/dev/null"

// variables returns the environment that a container sets itself, by name.
func variables(c *yaml.Node) map[string]*yaml.Node {
	set := make(map[string]*yaml.Node)
	if env := field(c, "env"); env != nil {
		for _, entry := range env.Content {
			entry = resolve(entry)
			set[text(field(entry, "name"))] = entry
		}
	}
	return set
}

// isSet reports whether a variable has a value that is not empty, as far as the manifest says it.
func isSet(entry *yaml.Node) bool {
	return text(field(entry, "value")) != "" || field(entry, "valueFrom") != nil
}

// sameValue reports whether two variables have the same value, as far as the manifest says it.
func sameValue(a, b *yaml.Node) bool {
	return text(field(a, "value")) == text(field(b, "value")) && (field(a, "valueFrom") == nil) == (field(b, "valueFrom") == nil)
}

// has reports whether a list has an item with the name.
func has(list *yaml.Node, name string) bool {
	return list != nil && slices.ContainsFunc(list.Content, func(n *yaml.Node) bool { return text(field(resolve(n), "name")) == name })
}

// at follows keys down from a mapping; nil if one is missing.
func at(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		n = field(n, key)
	}
	return n
}

// field returns the value of a key; nil if there is no such key, or no mapping. Aliases are resolved.
func field(n *yaml.Node, key string) *yaml.Node {
	if k := keyOf(n, key); k >= 0 {
		return resolve(n.Content[k+1])
	}
	return nil
}

// keyOf returns the index of a key in the content of a mapping, or -1.
func keyOf(n *yaml.Node, key string) int {
	if n == nil || n.Kind != yaml.MappingNode {
		return -1
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// mapping and items parse what package deploy returns.
func mapping(source string) *yaml.Node {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(source), &document); err != nil {
		panic(err)
	}
	return document.Content[0]
}

func items(source string) []*yaml.Node { return mapping(source).Content }

// quote writes a string that is valid in both YAML and JSON.
func quote(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil { // a string
		panic(err)
	}
	return string(quoted)
}
