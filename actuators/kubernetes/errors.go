package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"flyball/actuators"
)

// explain says what an answer of the apiserver means for a target, and what would be right. verb and subresource are those
// of the request, as a Role names them.
func (c *client) explain(err error, verb string, r ref, subresource string) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	asked := strings.TrimSuffix(r.resource+"/"+subresource, "/")
	message := messageOf(err)
	switch {
	case errors.Is(err, actuators.ErrUnknownTarget), errors.Is(err, errStale):
		return err
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: %s", errStale, message)
	case apierrors.IsNotFound(err) && subresource != "" && !c.hasScale(r.resource):
		return fmt.Errorf("%w: %s have no scale subresource: say in actuators.kubernetes.resources which of their fields to change",
			actuators.ErrUnknownTarget, r.resource)
	case apierrors.IsNotFound(err) && unserved(err):
		if known, found := c.known(r.resource); found {
			c.forget(known)
		}
		return fmt.Errorf("%w: the cluster does not serve %s any more", actuators.ErrUnknownTarget, asked)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: there is no %s %s in the namespace %s", actuators.ErrUnknownTarget, r.resource, r.name, r.namespace)
	case apierrors.IsForbidden(err) && strings.Contains(message, " cannot "+verb+" resource "):
		return refusal("forbidden: a Role in the namespace %s needs the rule %s: %s", r.namespace, rule(verb, r, subresource), message)
	case apierrors.IsForbidden(err):
		return refusal("forbidden by what admits changes to the cluster: %s", message)
	case apierrors.IsUnauthorized(err):
		return refusal("unauthorized: the apiserver does not take the credentials of actuators.kubernetes: is the token or the certificate still valid?")
	case verb == "patch" && failedTest(err):
		return fmt.Errorf("%w: %s", errStale, message)
	case apierrors.IsInvalid(err):
		return fmt.Errorf("%w: %s", actuators.ErrOutOfRange, message)
	}
	return fmt.Errorf("%s %s: %w", verb, asked, err)
}

// refused is an answer of the apiserver by which it is certain that it has changed nothing. It reads as it would without being
// an actuators.ErrRefused.
type refused string

func refusal(format string, args ...any) error { return refused(fmt.Sprintf(format, args...)) }

// Error implements error.
func (r refused) Error() string { return string(r) }

// Is is for errors.Is.
func (refused) Is(target error) bool { return target == actuators.ErrRefused }

// hasScale says whether the cluster lists a scale subresource of a resource.
func (c *client) hasScale(name string) bool {
	known, found := c.known(name)
	if !found {
		return true
	}
	_, err := c.kinds.ScaleForResource(known.GroupVersionResource)
	return err == nil
}

// rule is the rule of a Role that allows a request, in the form that it is written in.
func rule(verb string, r ref, subresource string) string {
	plural, group, _ := strings.Cut(r.resource, ".")
	if subresource != "" {
		plural += "/" + subresource
	}
	names := ""
	if r.name != "" { // else what is to be made has none yet
		names = fmt.Sprintf("resourceNames: [%s], ", r.name)
	}
	return fmt.Sprintf("{apiGroups: [%q], resources: [%s], %sverbs: [%s]}", group, plural, names, verb)
}

func messageOf(err error) string {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return status.Status().Message
	}
	return err.Error()
}

// unserved says that what was not found is the path itself, and not an object. The apiserver's own answer for a path that it
// does not know is no Status, which client-go notes as a cause.
func unserved(err error) bool {
	return apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// failedTest says that a JSON patch was not carried out, which is so when one of its tests did not hold. The apiserver does
// not say which; of an object that is not valid after all it names the fields.
func failedTest(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || status.ErrStatus.Code != http.StatusUnprocessableEntity {
		return false
	}
	details := status.ErrStatus.Details
	return details == nil || !slices.ContainsFunc(details.Causes, func(c metav1.StatusCause) bool { return c.Field != "" })
}
