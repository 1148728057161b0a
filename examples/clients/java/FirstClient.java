import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.blockyard.v1.AcquireRequest;
import dev.blockyard.v1.AcquireResponse;
import dev.blockyard.v1.Allocation;
import dev.blockyard.v1.AllocatorGrpc;
import dev.blockyard.v1.AllocatorGrpc.AllocatorBlockingStub;
import dev.blockyard.v1.CreateFleetRequest;
import dev.blockyard.v1.CreateInstanceRequest;
import dev.blockyard.v1.Demand;
import dev.blockyard.v1.FleetAdminGrpc;
import dev.blockyard.v1.FleetAdminGrpc.FleetAdminBlockingStub;
import dev.blockyard.v1.Instance;
import dev.blockyard.v1.Placement;
import dev.blockyard.v1.ReleaseRequest;
import dev.blockyard.v1.ReleaseResponse;
import dev.blockyard.v1.RenewRequest;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractBlockingStub;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * A first client of Blockyard in Java: {@code java FirstClient FLEET}, with the code that protoc generates from protos/.
 *
 * <p>It makes a fleet, acquires, asks again, is refused, renews and releases. docs/how-to/write-a-client.md explains it.
 */
public final class FirstClient {
  /** How long one attempt may take. */
  private static final long ATTEMPT_S = 5;

  /** How long to ask again: longer than the outages to survive. */
  private static final long PATIENCE_S = 60;

  private static final long PAUSE_MS = 500;

  private FirstClient() {}

  /** Whether the outcome is unknown: a change may have happened. */
  private static boolean gotNoAnswer(StatusRuntimeException error) {
    switch (error.getStatus().getCode()) {
      case UNAVAILABLE:
      case DEADLINE_EXCEEDED:
      case CANCELLED:
        return true;
      default:
        return false;
    }
  }

  /**
   * Makes attempts, each with its deadline, until there is an answer; each must send the same request. Throws a refusal, or
   * the last failure.
   */
  private static <S extends AbstractBlockingStub<S>, A> A ask(S stub, Function<S, A> attempt) throws InterruptedException {
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
    while (true) {
      try {
        return attempt.apply(stub.withDeadlineAfter(ATTEMPT_S, TimeUnit.SECONDS));
      } catch (StatusRuntimeException error) {
        if (!gotNoAnswer(error) || System.nanoTime() - until > 0) {
          throw error;
        }
        Thread.sleep(PAUSE_MS);
      }
    }
  }

  /** Acquires. If no answer came, nothing stays held for longer than the TTL. */
  private static AcquireResponse acquire(AllocatorBlockingStub allocator, AcquireRequest request) throws InterruptedException {
    try {
      return ask(allocator, stub -> stub.acquire(request));
    } catch (StatusRuntimeException error) {
      if (gotNoAnswer(error)) {
        ReleaseRequest byToken =
            ReleaseRequest.newBuilder().setFleet(request.getFleet()).setIdempotencyToken(request.getIdempotencyToken()).build();
        ask(allocator, stub -> stub.release(byToken));
      }
      throw error;
    }
  }

  /** The ErrorInfo of a refusal. Empty: it has none, and comes from a proxy, say. */
  private static Optional<ErrorInfo> errorInfo(StatusRuntimeException error) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status != null) {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          try {
            return Optional.of(detail.unpack(ErrorInfo.class));
          } catch (InvalidProtocolBufferException malformed) {
            throw new IllegalStateException("an ErrorInfo that is none", malformed);
          }
        }
      }
    }
    return Optional.empty();
  }

  private static String newToken() {
    return UUID.randomUUID().toString();
  }

  private static void run(ManagedChannel channel, String fleetId) throws InterruptedException {
    AllocatorBlockingStub allocator = AllocatorGrpc.newBlockingStub(channel);
    FleetAdminBlockingStub admin = FleetAdminGrpc.newBlockingStub(channel);
    String fleet = "fleets/" + fleetId;

    // If they are there already, with these fields, nothing changes.
    CreateFleetRequest newFleet = CreateFleetRequest.newBuilder().setFleetId(fleetId).build();
    ask(admin, stub -> stub.createFleet(newFleet));
    CreateInstanceRequest newInstance =
        CreateInstanceRequest.newBuilder()
            .setParent(fleet)
            .setInstanceId("node-1")
            .setInstance(Instance.newBuilder().setTotalBlocks(4))
            .build();
    ask(admin, stub -> stub.createInstance(newInstance));

    // The token names the intent. A scheduler that must survive its own death writes it down before it asks.
    AcquireRequest request =
        AcquireRequest.newBuilder()
            .setFleet(fleet)
            .setIdempotencyToken(newToken())
            .setHolder("job-1")
            .addDemands(Demand.newBuilder().setBlocks(2))
            .setTtl(Duration.newBuilder().setSeconds(30))
            .build();
    Allocation allocation = acquire(allocator, request).getAllocation();
    for (Placement placement : allocation.getPlacementsList()) {
      System.out.printf("%s holds %s %s%n", allocation.getHolder(), placement.getInstance(), placement.getBlocksList());
    }

    AcquireResponse again = acquire(allocator, request);
    boolean same = again.getAllocation().getName().equals(allocation.getName());
    System.out.printf("again: %s, replayed %s%n", same ? "the same allocation" : "another one", again.getReplayed());

    AcquireRequest tooMuch =
        AcquireRequest.newBuilder()
            .setFleet(fleet)
            .setIdempotencyToken(newToken())
            .setHolder("job-2")
            .addDemands(Demand.newBuilder().setBlocks(3))
            .build();
    try {
      acquire(allocator, tooMuch);
    } catch (StatusRuntimeException error) {
      ErrorInfo info = errorInfo(error).filter(found -> found.getReason().equals("NO_CAPACITY")).orElseThrow(() -> error);
      // Wait, and ask again with the same token.
      System.out.printf("refused: %s, %s idle%n", info.getReason(), info.getMetadataOrThrow("idle_blocks"));
    }

    // The guards: if the name should ever mean somebody else's allocation, theirs is left alone.
    RenewRequest renewal =
        RenewRequest.newBuilder()
            .setName(allocation.getName())
            .setHolder(allocation.getHolder())
            .setFencingToken(allocation.getFencingToken())
            .build();
    ask(allocator, stub -> stub.renew(renewal));
    ReleaseRequest release =
        ReleaseRequest.newBuilder()
            .setName(allocation.getName())
            .setHolder(allocation.getHolder())
            .setFencingToken(allocation.getFencingToken())
            .build();
    ReleaseResponse released = ask(allocator, stub -> stub.release(release));
    System.out.printf("released: %s%n", released.getOutcome());
  }

  /** Exits with 1 after a refusal, with its reason on stderr. */
  public static void main(String[] arguments) throws InterruptedException {
    String address = System.getenv().getOrDefault("BLOCKYARD_ADDRESS", "127.0.0.1:7350");
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(address)
            .usePlaintext()
            .defaultLoadBalancingPolicy("round_robin")
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    try {
      run(channel, arguments.length > 0 ? arguments[0] : "hello");
    } catch (StatusRuntimeException error) {
      System.err.println(errorInfo(error).map(ErrorInfo::getReason).orElse(error.getMessage()));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
