// Package source reads YAML that people wrote and says exactly where it is wrong: every fault at once, each as
// file:line:column with a caret under the place and, where a name is nearly right, the name that was probably meant.
//
//	f, err := source.Parse("rules/llm.yml", text)   // err: not YAML at all
//	d := f.Decoder()
//	d.Decode(&config)                               // strict: unknown and duplicate keys, wrong types
//	d.FaultAt("groups[0].rules[1].expr", 17, "...") // faults found by looking at the values
//	if err := d.Err(); err != nil { ... }           // source.Errors, in the order of the file
//
// A path such as groups[0].rules[1].expr names a place; a fault whose path does not exist in the file (a key that is
// missing) is shown at the nearest place that does.
package source
