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

	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

// podSpecs are the kinds that have a Pod in them, with their group, and the path to it; its metadata is beside
// its spec. Others have kinds of these names too, such as Volcano a Job.
var podSpecs = map[string][]string{
	"Pod":              {},
	"apps/Deployment":  {"spec", "template"},
	"apps/StatefulSet": {"spec", "template"},
	"apps/DaemonSet":   {"spec", "template"},
	"apps/ReplicaSet":  {"spec", "template"},
	"batch/Job":        {"spec", "template"},
	"batch/CronJob":    {"spec", "jobTemplate", "spec", "template"},
}

// pathToPod returns the path to an object's Pod.
func (o *object) pathToPod() (path []string, known bool) {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	kind := group + "/" + o.Kind
	if o.APIVersion == "v1" {
		kind = o.Kind
	}
	path, known = podSpecs[kind]
	return path, known
}

// inject adds the sidecar to everything in a stream of YAML that can have it. Notes are for people, one for
// each object that could. With an error there is neither.
//
// The text is edited, not printed anew: what is not ours stays as it is to the byte. That the edit means
// what it should is checked in the end, against the same change made to the objects themselves.
func inject(input []byte, parts deploy.Parts) (output []byte, notes []string, err error) {
	// The YAML library takes these for line ends, and lines are counted.
	if i := bytes.IndexAny(bytes.ReplaceAll(input, []byte("\r\n"), []byte("\n\n")), "\r\u0085\u2028\u2029"); i >= 0 {
		return nil, nil, fmt.Errorf("line %d ends in something other than a line feed (a carriage return alone, or U+0085, U+2028 or U+2029)", 1+bytes.Count(input[:i], []byte("\n")))
	}
	input, marked := bytes.CutPrefix(input, []byte(byteOrderMark))
	documents, err := decode(input)
	if err != nil {
		return nil, nil, err
	}
	j := &injector{parts: parts, accounts: map[string]map[string]string{}, forbidding: map[string]bool{}, edit: newEdit(input)}
	var objects []*object
	for number, document := range documents {
		found, err := objectsIn(document, number+1)
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, found...)
	}
	if len(objects) == 0 && !slices.ContainsFunc(documents, isList) {
		return nil, nil, errors.New("there is no Kubernetes object on standard input: irsa-sidecar-inject < app.yaml")
	}
	for _, o := range objects {
		j.learn(o)
	}
	for _, o := range objects {
		if err := j.object(o); err != nil {
			return nil, nil, fmt.Errorf("line %d: %s: %w", o.node.Line, o, err)
		}
	}
	if !slices.ContainsFunc(objects, func(o *object) bool { _, known := o.pathToPod(); return known }) {
		j.note("nothing to inject: there is no Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob or Pod in the input")
	}
	output = j.edit.apply()
	if err := same(documents, output); err != nil {
		return nil, nil, err
	}
	if marked {
		output = append([]byte(byteOrderMark), output...)
	}
	return output, j.notes, nil
}

const byteOrderMark = "\ufeff"

// same checks that the text says what the changed documents say.
func same(want []*yaml.Node, text []byte) error {
	have, err := decode(text)
	if err != nil {
		return fmt.Errorf("this layout cannot be edited (afterwards %w): write initContainers, containers, env and volumes the usual way", err)
	}
	for i := range max(len(want), len(have)) {
		var a, b any
		if i < len(want) && i < len(have) && want[i].Decode(&a) == nil && have[i].Decode(&b) == nil && reflect.DeepEqual(a, b) {
			continue
		}
		return fmt.Errorf("document %d: this layout cannot be edited: write initContainers, containers, env and volumes the usual way, without anchors", i+1)
	}
	return nil
}

// decode reads all documents. Their lines are counted from the beginning of the stream.
func decode(input []byte) (documents []*yaml.Node, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(input)); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if err == io.EOF {
			return documents, nil
		}
		if err == nil {
			var value any
			err = document.Decode(&value) // which finds keys that are there twice
		}
		if err != nil {
			hint := ""
			if bytes.Contains(input, []byte("{{")) {
				hint = "; a template has to be rendered first: helm template … | irsa-sidecar-inject"
			}
			return nil, fmt.Errorf("document %d is not YAML: %s%s", len(documents)+1, said(err), hint)
		}
		documents = append(documents, &document)
	}
}

// said is the library's error in one line, and without its name.
func said(err error) string {
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
		return nil, fmt.Errorf("line %d: document %d is not a Kubernetes object: it has no apiVersion and kind", n.Line, number)
	}
	if err := n.Decode(&o); err != nil {
		return nil, fmt.Errorf("line %d: document %d is not a Kubernetes object: %s", n.Line, number, said(err))
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
	parts      deploy.Parts
	accounts   map[string]map[string]string // the annotations of the service accounts in the input, by namespace/name
	forbidding map[string]bool              // namespaces in the input
	edit       *edit
	notes      []string
}

func (j *injector) note(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

// learn notes what an object says about others.
func (j *injector) learn(o *object) {
	switch o.Kind {
	case "ServiceAccount":
		j.accounts[o.Metadata.Namespace+"/"+o.Metadata.Name] = o.Metadata.Annotations
	case "Namespace":
		j.forbidding[o.Metadata.Name] = o.Metadata.Labels[deploy.InjectLabel] == deploy.Disabled
	}
}

// object adds the sidecar to an object, in its node and in the text.
func (j *injector) object(o *object) error {
	path, known := o.pathToPod()
	if !known {
		if at(o.node, "spec", "template", "spec", "containers") != nil {
			j.note("%s: left as it is: there are Pods in it, but of this kind nothing is known here", o)
		}
		return nil
	}
	pod := at(o.node, path...)
	spec := field(pod, "spec")
	containers := field(spec, "containers")
	if containers == nil || containers.Kind != yaml.SequenceNode || len(containers.Content) == 0 {
		return fmt.Errorf("it has no containers at %s", strings.Join(append(slices.Clone(path), "spec", "containers"), "."))
	}
	// A key of ours would hide one that is merged in.
	for _, n := range []*yaml.Node{pod, spec} {
		if k := keyOf(n, "<<"); k >= 0 {
			return fmt.Errorf("line %d: << merges something in here: write it out", n.Content[k].Line)
		}
	}
	all := containers.Content
	initContainers := field(spec, "initContainers")
	if initContainers != nil && !isNull(initContainers) {
		if initContainers.Kind != yaml.SequenceNode {
			return fmt.Errorf("line %d: initContainers is not a list", initContainers.Line)
		}
		all = append(slices.Clone(initContainers.Content), all...)
	}
	for _, c := range all {
		if k := keyOf(c, "<<"); k >= 0 {
			return fmt.Errorf("line %d: << merges something in here: write it out", c.Content[k].Line)
		}
		if c.Kind == yaml.AliasNode {
			return fmt.Errorf("line %d: *%s stands here for a container: write it out", c.Line, c.Value)
		}
		if c.Kind != yaml.MappingNode {
			return fmt.Errorf("line %d: a container must have a name and an image", c.Line)
		}
		if text(field(c, "name")) != deploy.Name {
			continue
		}
		if text(field(c, "restartPolicy")) == "Always" && initContainers != nil && slices.Contains(initContainers.Content, c) {
			j.note("%s: left as it is: it has the sidecar already (image %s)", o, text(field(c, "image")))
			return nil
		}
		return fmt.Errorf("line %d: a container is called %s already and is no native sidecar: rename it", c.Line, deploy.Name)
	}

	var template struct{ Metadata metadata }
	if err := pod.Decode(&template); err != nil {
		return fmt.Errorf("its Pods' metadata cannot be read: %s", said(err))
	}
	if template.Metadata.Labels[deploy.InjectLabel] == deploy.Disabled {
		j.note("%s: left as it is: its Pods have the label %s: %s", o, deploy.InjectLabel, deploy.Disabled)
		return nil
	}
	if j.forbidding[o.Metadata.Namespace] {
		j.note("%s: left as it is: its namespace has the label %s: %s", o, deploy.InjectLabel, deploy.Disabled)
		return nil
	}
	parts := j.parts
	account := cmp.Or(text(field(spec, "serviceAccountName")), text(field(spec, "serviceAccount")), "default") // the second is its old name
	annotations, there := j.accounts[o.Metadata.Namespace+"/"+account]
	if parts.Region == "" {
		parts.Region = annotations[deploy.RegionAnnotation]
		if parts.Region != "" && !region.MatchString(parts.Region) {
			return fmt.Errorf("the annotation %s of its service account %s is not a region: %q", deploy.RegionAnnotation, account, parts.Region)
		}
	}
	whose := fmt.Sprintf("role %s", parts.RoleARN)
	if parts.RoleARN == "" {
		role := annotations[deploy.RoleAnnotation]
		switch {
		case role != "" && !roleARN.MatchString(role):
			return fmt.Errorf("the annotation %s of its service account %s is not a role's ARN: %q", deploy.RoleAnnotation, account, role)
		case role != "":
			parts.RoleARN, whose = role, fmt.Sprintf("role %s, of service account %s", role, account)
		case there:
			return fmt.Errorf("its service account %s has no role: annotate it with %s, or give --role-arn", account, deploy.RoleAnnotation)
		default:
			whose = fmt.Sprintf("role left to the EKS webhook, which reads it off service account %s; without the webhook, give --role-arn", account)
		}
	}
	// Values that YAML could read as something else are kept as what they are.
	for _, value := range []*string{&parts.RoleARN, &parts.Region, &parts.Image} {
		if *value != "" {
			*value = quote(*value)
		}
	}
	if err := j.change(spec, parts, strings.Split(template.Metadata.Annotations[deploy.SkipAnnotation], ","), o); err != nil {
		return err
	}
	j.note("%s: sidecar added; %s", o, whose)
	return nil
}

// change adds the sidecar to a Pod's spec.
func (j *injector) change(spec *yaml.Node, parts deploy.Parts, skip []string, o *object) error {
	containers, initContainers := field(spec, "containers"), field(spec, "initContainers")
	environment := items(parts.Env())
	var others []*yaml.Node
	if initContainers != nil {
		others = append(others, initContainers.Content...)
	}
	for _, c := range append(others, containers.Content...) {
		name := text(field(c, "name"))
		if slices.ContainsFunc(skip, func(s string) bool { return strings.TrimSpace(s) == name }) {
			continue
		}
		set := map[string]string{}
		if env := field(c, "env"); env != nil {
			for _, entry := range env.Content {
				entry = resolve(entry)
				set[text(field(entry, "name"))] = text(field(entry, "value"))
			}
		}
		var missing []*yaml.Node
		for _, entry := range environment {
			variable := text(field(entry, "name"))
			value, there := set[variable]
			if !there {
				missing = append(missing, entry)
			} else if wanted := text(field(entry, "value")); value != wanted {
				note := ""
				if variable == "AWS_WEB_IDENTITY_TOKEN_FILE" || strings.HasPrefix(variable, "AWS_CONTAINER_") {
					note = ": its SDK may not ask the sidecar"
				}
				j.note("%s: container %s sets %s itself, and keeps it%s", o, name, variable, note)
			}
		}
		if set["AWS_ACCESS_KEY_ID"] != "" {
			j.note("%s: container %s has AWS_ACCESS_KEY_ID, which SDKs take first: they will not ask the sidecar", o, name)
		}
		if len(missing) == 0 {
			continue
		}
		after := field(c, "image")
		if after == nil || after.Style&(yaml.FoldedStyle|yaml.LiteralStyle) != 0 || strings.ContainsAny(after.Value, " \n") { // of several lines
			after = field(c, "name")
		}
		if err := j.edit.prepend(c, "env", missing, place{after: after}); err != nil {
			return err
		}
	}
	if volume := parts.Volume(); volume != "" && !has(field(spec, "volumes"), deploy.TokenVolume) {
		if err := j.edit.prepend(spec, "volumes", items(volume), place{before: "containers"}); err != nil {
			return err
		}
	}
	return j.edit.prepend(spec, "initContainers", []*yaml.Node{mapping(parts.Container())}, place{before: "containers"})
}

// has reports whether one of a list has the name.
func has(list *yaml.Node, name string) bool {
	return list != nil && slices.ContainsFunc(list.Content, func(n *yaml.Node) bool { return text(field(resolve(n), "name")) == name })
}

// at follows keys down from a mapping; nil where one is missing.
func at(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		n = field(n, key)
	}
	return n
}

// field returns the value of a key; nil where there is no such key, or no mapping. An alias is what it
// stands for.
func field(n *yaml.Node, key string) *yaml.Node {
	if k := keyOf(n, key); k >= 0 {
		return resolve(n.Content[k+1])
	}
	return nil
}

// keyOf returns the place of a key in a mapping's content; -1 if it is not there.
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

// mapping and items parse what deploy has made.
func mapping(made string) *yaml.Node {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(made), &document); err != nil {
		panic(err)
	}
	return document.Content[0]
}

func items(made string) []*yaml.Node { return mapping(made).Content }

// quote is a string in both YAML and JSON.
func quote(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil { // a string
		panic(err)
	}
	return string(quoted)
}
