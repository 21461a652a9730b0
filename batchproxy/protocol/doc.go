// Package protocol knows how N inference requests become one and how one answer becomes N again, without decoding a
// single number: a request is checked strictly, cut at the batched arrays, and spliced with others as raw bytes.
//
// One file holds one protocol: v1.go the KServe and TensorFlow Serving predict protocol, oip.go the Open Inference
// Protocol (KServe v2). scan.go is the small JSON scanner that both cut with. A [Protocol] has no state and is safe for
// concurrent use:
//
//	request, err := protocol.V1{}.Parse(body)              // *Fault: the client's mistake; ErrAlone: valid, not for merging
//	merged := protocol.V1{}.Merge(nil, "batch-7", requests) // requests whose Key is equal
//	answer, err := protocol.V1{}.Split(upstreamBody, requests)
//	own := answer.Append(nil, 0)                           // what requests[0] is answered
//
// Two requests may be merged only where their keys are equal. The key holds everything that is not batched (tensor
// names, datatypes, shapes without the first dimension, parameters, ...) in canonical form, with numbers kept as they
// were written: 9007199254740993 and 9007199254740992 are two keys.
//
// Merging takes the first dimension of every tensor as the batch. A model whose first dimension means something else
// (a sequence without a batch) must not be batched.
package protocol
