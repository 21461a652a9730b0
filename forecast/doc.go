// Package forecast says what comes next in a series of demand, how sure that is, and why it thinks so.
package forecast
