// Blockyard for a Node.js program: its services, and its errors with their details. Everything out of the .proto files.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const PROTOS = path.resolve(__dirname, "../../../protos");
// The fields have the names that the protos give them, as in everybody else's examples.
const SHAPE = { keepCase: true, longs: String, enums: String, oneofs: true, includeDirs: [PROTOS, __dirname] };
const DETAILS_KEY = "grpc-status-details-bin";
const DETAILS_PREFIX = "type.googleapis.com/";

const api = protoLoader.loadSync(
  ["allocator", "fleet_admin", "ledger"].map((file) => `blockyard/v1/${file}.proto`).concat("health.proto"),
  SHAPE,
);
const rpc = protoLoader.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], SHAPE);

// { Allocator, FleetAdmin, Ledger } and Health, each connected to the address.
function connect(address) {
  const root = grpc.loadPackageDefinition(api);
  const services = { ...root.blockyard.v1, Health: root.grpc.health.v1.Health };
  const clients = {};
  for (const name of ["Allocator", "FleetAdmin", "Ledger", "Health"]) {
    clients[name] = new services[name](address, grpc.credentials.createInsecure());
  }
  return clients;
}

// The metadata that proves who calls; without a token it says nothing.
function credentials(token) {
  const metadata = new grpc.Metadata();
  if (token) {
    metadata.set("authorization", `Bearer ${token}`);
  }
  return metadata;
}

// The answer of one call; rejects with the ServiceError that grpc-js makes.
function call(client, method, request, metadata = credentials(), deadlineMs = 60_000) {
  if (typeof client[method] !== "function") {
    return Promise.reject(new TypeError(`the protos have no method ${method}`));
  }
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline: Date.now() + deadlineMs }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

// { status, message, details } of a google.rpc.Status, each detail decoded by the message that its type names.
function decodeStatus(status) {
  const details = (status.details || []).map(({ type_url: type, value }) => {
    const message = rpc[type.slice(DETAILS_PREFIX.length)];
    if (!type.startsWith(DETAILS_PREFIX) || message === undefined) {
      throw new TypeError(`an error has a detail of the unknown type ${type}`);
    }
    return { "@type": type, ...message.deserialize(value) };
  });
  return { status: grpc.status[status.code], message: status.message, details };
}

// The same of a failed call, whose google.rpc.Status must agree with the status that the transport tells.
function decodeError(error) {
  const [bytes] = error.metadata ? error.metadata.get(DETAILS_KEY) : [];
  if (bytes === undefined) {
    throw error;
  }
  const status = rpc["google.rpc.Status"].deserialize(bytes);
  if (status.code !== error.code || status.message !== error.details) {
    throw new Error(`${DETAILS_KEY} says ${status.code} ${status.message}, the transport ${error.message}`);
  }
  return decodeStatus(status);
}

module.exports = { call, connect, credentials, decodeError, decodeStatus };
