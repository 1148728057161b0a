// A first client of Blockyard in TypeScript: `node build/client.js FLEET`, with types generated from protos/.
//
// It makes a fleet, acquires, asks again, is refused, renews and releases. docs/how-to/write-a-client.md explains it.

import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

import type { ProtoGrpcType as AllocatorFile } from "./generated/allocator";
import type { AcquireRequest } from "./generated/blockyard/v1/AcquireRequest";
import type { AcquireResponse__Output } from "./generated/blockyard/v1/AcquireResponse";
import type { AllocatorClient } from "./generated/blockyard/v1/Allocator";
import type { ReleaseResponse__Output } from "./generated/blockyard/v1/ReleaseResponse";
import type { ProtoGrpcType as FleetAdminFile } from "./generated/fleet_admin";
import type { ErrorInfo__Output } from "./generated/google/rpc/ErrorInfo";
import type { Status__Output } from "./generated/google/rpc/Status";

const ATTEMPT_MS = 5_000; // how long one attempt may take
const PATIENCE_MS = 60_000; // how long to ask again: longer than the outages to survive
const PAUSE_MS = 500;

// For a change these mean: unknown. It may have happened.
const NO_ANSWER = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED];

// The same options as for proto-loader-gen-types: the types that it generates are true for these only.
const PROTOS = resolve(__dirname, "../../../../protos");
const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [PROTOS] };
const api = protoLoader.loadSync(["blockyard/v1/allocator.proto", "blockyard/v1/fleet_admin.proto"], OPTIONS);
const details = protoLoader.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], OPTIONS);

/** One attempt: what sends the request with these options, and calls back. */
type Attempt<Answer> = (options: grpc.CallOptions, done: grpc.requestCallback<Answer>) => grpc.ClientUnaryCall;

/** Sends the same request until there is an answer. Throws a ServiceError: a refusal, or the last failure. */
async function ask<Answer>(attempt: Attempt<Answer>): Promise<Answer> {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await new Promise<Answer>((settle, fail) => {
        attempt({ deadline: Date.now() + ATTEMPT_MS }, (error, answer) => (error ? fail(error) : settle(answer!)));
      });
    } catch (error) {
      if (!gotNoAnswer(error) || performance.now() > until) throw error;
      await pause(PAUSE_MS);
    }
  }
}

/** Acquires. Throws a ServiceError: a refusal, or no answer, and then nothing stays held for longer than the TTL. */
async function acquire(allocator: AllocatorClient, request: AcquireRequest): Promise<AcquireResponse__Output> {
  try {
    return await ask((options, done) => allocator.Acquire(request, options, done));
  } catch (error) {
    if (gotNoAnswer(error)) {
      const { fleet, idempotency_token } = request;
      await ask((options, done) => allocator.Release({ fleet, idempotency_token }, options, done));
    }
    throw error;
  }
}

function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

function gotNoAnswer(error: unknown): boolean {
  return isServiceError(error) && NO_ANSWER.includes(error.code);
}

/** The bytes of a message, decoded as the type that has this full name. */
function decode(type: string, bytes: Buffer): unknown {
  return (details[type] as protoLoader.MessageTypeDefinition<object, object>).deserialize(bytes);
}

/** The ErrorInfo of a refusal. Undefined: it has none, and comes from a proxy, say. */
function errorInfo(error: grpc.ServiceError): ErrorInfo__Output | undefined {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  if (!Buffer.isBuffer(bytes)) return undefined;
  const status = decode("google.rpc.Status", bytes) as Status__Output;
  // proto-loader does not know the type of an Any in advance: its type_url names it.
  const info = status.details.find((detail) => detail.type_url.endsWith("/google.rpc.ErrorInfo"));
  return info && (decode("google.rpc.ErrorInfo", info.value as Buffer) as ErrorInfo__Output);
}

async function main(fleetId: string): Promise<void> {
  const address = process.env["BLOCKYARD_ADDRESS"] ?? "127.0.0.1:7350";
  const { blockyard } = grpc.loadPackageDefinition(api) as unknown as AllocatorFile & FleetAdminFile;
  const channelOptions = {
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  };
  const credentials = grpc.credentials.createInsecure();
  const allocator = new blockyard.v1.Allocator(address, credentials, channelOptions);
  const admin = new blockyard.v1.FleetAdmin(address, credentials, channelOptions);
  const fleet = `fleets/${fleetId}`;

  // If they are there already, with these fields, nothing changes.
  await ask((options, done) => admin.CreateFleet({ fleet_id: fleetId }, options, done));
  const shape = { parent: fleet, instance_id: "node-1", instance: { total_blocks: 4 } };
  await ask((options, done) => admin.CreateInstance(shape, options, done));

  // The token names the intent. A scheduler that must survive its own death writes it down before it asks.
  const request: AcquireRequest = {
    fleet,
    idempotency_token: randomUUID(),
    holder: "job-1",
    demands: [{ blocks: 2 }],
    ttl: { seconds: 30 },
  };
  const { allocation } = await acquire(allocator, request);
  if (!allocation) throw new Error("a grant without an allocation");
  for (const { instance, blocks } of allocation.placements) {
    console.log(`${allocation.holder} holds ${instance} [${blocks.join(" ")}]`);
  }

  const again = await acquire(allocator, request);
  const same = again.allocation?.name === allocation.name;
  console.log(`again: ${same ? "the same allocation" : "another one"}, replayed ${again.replayed}`);

  const tooMuch = { ...request, idempotency_token: randomUUID(), holder: "job-2", demands: [{ blocks: 3 }] };
  try {
    await acquire(allocator, tooMuch);
  } catch (error) {
    const info = isServiceError(error) ? errorInfo(error) : undefined;
    if (info?.reason !== "NO_CAPACITY") throw error;
    console.log(`refused: ${info.reason}, ${info.metadata["idle_blocks"]} idle`); // wait, ask again with the same token
  }

  // The guards: if the name should ever mean somebody else's allocation, theirs is left alone.
  const { name, holder, fencing_token } = allocation;
  const mine = { name, holder, fencing_token };
  await ask((options, done) => allocator.Renew(mine, options, done));
  const released: ReleaseResponse__Output = await ask((options, done) => allocator.Release(mine, options, done));
  console.log(`released: ${released.outcome}`);

  allocator.close();
  admin.close();
}

main(process.argv[2] ?? "hello").catch((error: unknown) => {
  const reason = isServiceError(error) ? (errorInfo(error)?.reason ?? grpc.status[error.code]) : undefined;
  console.error(reason ?? error);
  process.exitCode = 1;
});
