// Package journal keeps the decisions of scale rules: an append-only file of one JSON object a line, which survives
// kill -9, and the newest of them in memory for the page and for `flyball explain`.
//
//	j, err := journal.Open("data/decisions.jsonl", journal.Options{})
//	j.Replay(memory.Replay) // a rules.Memory
//	j.Append(decision)
//	j.Recent(journal.Filter{Rule: "digits"}, 20)
//
// What is written is each change, each refusal and each change of reason, not every evaluation. A last line that the
// process did not live to finish is cut off when the file is opened. A file that has grown to its limit is set aside as
// NAME.1, replacing the one before, and the decisions that hold each target's state go along into the new one.
package journal
