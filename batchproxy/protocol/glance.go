package protocol

// Glance is a quick look at a request, some ten times as fast as Parse: how many rows it has, how urgent it is, and whether it is
// ErrAlone. It does not check the request, which must not be merged by what is returned; any other error says that it cannot be told.
func Glance(p Protocol, m Message) (*Request, error) {
	switch p.(type) {
	case V1:
		return walkRows(m.Body, false, "instances", "instance")
	case Examples:
		return walkRows(m.Body, false, "examples", "example")
	case OIP:
		return walkInfer(m, m.text(), false)
	case OpenAI:
		return walkEmbeddings(m.Body, false)
	}
	return nil, ErrAlone
}
