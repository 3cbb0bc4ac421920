// Package e2e runs numbered cases against the real program: one process of
// `godwit serve` a case, driven over its own ports, delivering by real MX
// lookups to a simulated world on loopback. Run it with
//
//	make e2e
//	go test -tags e2e ./test/e2e -run 'Cases/05'
//
// A case is a directory NN-name with config.toml (a template, see
// testdata/common.toml) and scripts, *.txt, run in the order of their names
// against the same process.
//
// # Scripts
//
// A script is a list of steps, one a line; # begins a comment. Lines indented
// by a tab belong to the step above them. ${name} is replaced by a variable;
// named groups of regular expressions set variables. << and >> are a template
// (<<repeat "x" 80>>). The first step that fails ends the script.
//
// SMTP dialogues name the connection first:
//
//	a open                      connect to the first listener; "open 1" to the second; "open 1 tls" at once in TLS; "open http"
//	a -> EHLO client.test       send a line
//	a <- 250 2.0.0              read a reply; it must begin so
//	a <~ (?m)^250.SIZE          read a reply; it must match
//	a has/lacks REGEXP          look at the last reply again
//	a data                      send the lines below, dot-stuffed, with the final dot
//	a raw "x" "y"*1000          send bytes, as Go strings; a number repeats. An early end of the connection is no error
//	a drip "x"                  send these bytes slowly, over and over, until the peer closes; then "has" sees all it said
//	a tls                       start TLS
//	a closed                    the peer closes, without another reply
//	send FROM TO...             a whole transaction with the message below it; sets ${id}
//
// HTTP, after which the document is the response (bodies are the lines below;
// options: key=NAME, idem=KEY, type=MEDIA, to=ops|admin|pipeline, gzip):
//
//	POST /v1/messages key=tester
//	status 202
//	header Retry-After ~ REGEXP
//	body ~ REGEXP
//	json errors.0.code = line_break     also: ~ REGEXP, len N, absent
//	json messages.0.id -> id            sets a variable
//
// What came of it; these wait, for a limited time, until it is so:
//
//	poll                        the steps below, again and again until all succeed
//	mail RECIPIENT [N]          the mailbox of mailbox.test has N (1) copies; the last becomes the message
//	sink RECIPIENT [N]          the simulator answered 250 for N (1) copies
//	event NAME=VALUE...         the events file has such a line; the last becomes the document
//	log ~ REGEXP                the program wrote it
//
// On the message:
//
//	field NAME = TEXT           also: ~ REGEXP, count N, absent
//	text ~ REGEXP               its body; also "text !~"
//	dkim RESULT...              what go-msgauth says of each signature, such as rsa:pass ed25519:fail
//	path ADDRESS                its reverse path
//	orcpt = TYPE;ADDRESS        what RCPT told of the original recipient
//	every RCPT-REGEXP N TEMPLATE each of the N copies whose recipient matches has the expanded template in its body
//
// The program itself:
//
//	run ARGS...                 run the command line; stdin is the lines below; JSON output becomes the document. ${api} is the
//	                            address of the pipeline
//	exit N                      its exit code, and
//	out ~ REGEXP                what it wrote
//	signal HUP, exited N, start send a signal; it ends with this code; run it again
//	config FILE                 take FILE as the configuration's template (no reload)
//	file NAME, truncate NAME N  write the lines below to a file of the case's directory; shorten one to N bytes
//	events schema|order         hold the whole events file against its promises; "events kinds ID KIND..."
//	no STEP                     the step, tried once, fails
//	set NAME = TEXT             set a variable
package e2e
