// Sends what it is told on stdin, a call a line, and tells the outcomes on stdout, a line each, as they come:
//   {"id": 1, "method": "Allocator/Acquire", "request": {…}}  →  {"id": 1, "answer": {…}} or {"id": 1, "error": {…}}
//   {"id": 2, "method": "Health/Watch", "request": {}}        →  {"id": 2, "message": {…}} …, {"id": 2, "error": {…}}
//   {"id": 2, "leave": true}
// A call with a "token" is sent with it.
// Ends with its input:  node lines.js HOST:PORT
"use strict";

const readline = require("node:readline");
const { call, connect, credentials, decodeError, decodeStatus } = require("./blockyard.js");

const clients = connect(process.argv[2]);

function tell(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function outcome(id, error) {
  try {
    tell({ id, error: decodeError(error) });
  } catch (fault) {
    tell({ id, fault: String(fault) });
  }
}

const streams = new Map();

function watch(id, stream) {
  streams.set(id, stream);
  stream.on("data", (message) => tell({ id, message }));
  stream.on("error", (error) => outcome(id, error));
}

// The errors inside of a batch's answer, decoded in place.
function decoded(answer) {
  if (answer.results === undefined) {
    return answer;
  }
  const results = answer.results.map((result) =>
    result.result === "error" ? { ...result, error: decodeStatus(result.error) } : result,
  );
  return { ...answer, results };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, request, token, leave } = JSON.parse(line);
  if (leave) {
    streams.get(id).cancel();
    return;
  }
  const [service, name] = method.split("/");
  if (name === "Watch") {
    watch(id, clients[service].Watch(request, credentials(token)));
  } else {
    call(clients[service], name, request, credentials(token)).then(
      (answer) => tell({ id, answer: decoded(answer) }),
      (error) => outcome(id, error),
    );
  }
}).on("close", () => process.exit(0));
