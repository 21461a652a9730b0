// Package protocol knows how N inference requests become one and how one answer becomes N again, without decoding a
// single number: a request is checked strictly, cut at the batched arrays, and spliced with others as raw bytes.
//
// One file holds one protocol: v1.go the KServe and TensorFlow Serving predict protocol, oip.go the Open Inference
// Protocol (KServe v2), whose tensors in binary are in binary.go, openai.go OpenAI's embeddings. scan.go is the small JSON
// scanner that all cut with, strict.go what it checks of requests as it walks, answer.go a divided answer, and chunk.go cuts a request that is too large and joins the answers
// to its parts. A [Protocol] has no state and is safe for concurrent use:
//
//	request, err := protocol.V1{}.Parse(message)            // *Fault: the client's mistake; ErrAlone: not for merging
//	merged := protocol.V1{}.Merge(nil, "batch-7", requests) // requests whose Key is equal
//	answer, err := protocol.V1{}.Split(upstream, requests)
//	own := answer.Append(nil, 0)                            // what requests[0] is answered
//
// What is merged, what keeps requests apart besides path, query and headers, and how an answer is divided:
//
//	              merged                          in the key                          divided
//	V1            instances                       every other member                  predictions, in order
//	Examples      examples                        every other member                  results, or result, in order
//	OIP, JSON     data of each input, shape[0]    name, datatype, shape[1:], flat or  data of each output, shape[0];
//	                                              nested, parameters, outputs         the client's id
//	OIP, binary   the same by tensor, with        the same, and which tensors are     the tensors' bytes, by width or, for
//	              binary_data_size                binary, binary_data(_output)        BYTES, by their lengths
//	OpenAI        input                           every other member, strings or      data by index, from 0; usage by tokens,
//	                                              tokens                              or bytes, to the last one
//
// Of OIP's parameters, priority and timeout (whole numbers) keep nobody apart: the batch has the smallest timeout of all,
// and the smallest priority where each gives one. What else an answer holds is copied to every client. It is no answer that
// can be divided where the rows are not as many, or another member is an array as long as the batch.
//
// Never merged, which is ErrAlone: no rows, columnar inputs (V1), parts of a sequence, tensors in shared memory, FP16 and BF16
// in JSON (OIP), an input that OpenAI does not have.
//
// Two requests may be merged only where their keys are equal. The key holds everything that is not batched (tensor
// names, datatypes, shapes without the first dimension, parameters, ...) in canonical form, with numbers kept as they
// were written: 9007199254740993 and 9007199254740992 are two keys.
//
// Merging takes the first dimension of every tensor as the batch. A model whose first dimension means something else
// (a sequence without a batch) must not be batched.
package protocol
