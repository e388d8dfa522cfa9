/* librabbitmq, the C client, as its users have it: blocking, one connection, an ack for each delivery.
 *
 * librabbitmq CASE HOST PORT USER PASSWORD VHOST QUEUE WARM_QUEUE MESSAGES WARMUP SIZE WINDOW
 *
 * Prints "seconds cpu-seconds", and for remote calls the seconds of each call, one a line. With the case "serve" it
 * answers remote calls until it is ended; "version" alone prints the library's version.
 */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define REPLY_TO "amq.rabbitmq.reply-to"
#define FRAME_MAX 131072

static amqp_connection_state_t connection;
static amqp_bytes_t body;
static int last_channel = 0;

static void fail(const char *doing) {
    fprintf(stderr, "librabbitmq: %s failed\n", doing);
    exit(1);
}

static void check(int status, const char *doing) {
    if (status < 0) {
        fprintf(stderr, "librabbitmq: %s: %s\n", doing, amqp_error_string2(status));
        exit(1);
    }
}

static void check_reply(const char *doing) {
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(doing);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int open_channel(int confirms) {
    amqp_channel_open(connection, ++last_channel);
    check_reply("channel.open");
    if (confirms) {
        amqp_confirm_select(connection, last_channel);
        check_reply("confirm.select");
    }
    return last_channel;
}

static void publish(int channel, amqp_bytes_t key, int mandatory, const char *reply_to, amqp_bytes_t correlation_id) {
    amqp_basic_properties_t properties;
    memset(&properties, 0, sizeof properties);
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.delivery_mode = 2;
    if (reply_to != NULL) {
        properties._flags |= AMQP_BASIC_REPLY_TO_FLAG;
        properties.reply_to = amqp_cstring_bytes(reply_to);
    }
    if (correlation_id.len) {
        properties._flags |= AMQP_BASIC_CORRELATION_ID_FLAG;
        properties.correlation_id = correlation_id;
    }
    check(amqp_basic_publish(connection, channel, amqp_empty_bytes, key, mandatory, 0, &properties, body),
          "basic.publish");
}

static void publish_unconfirmed(int channel, const char *queue, uint64_t count) {
    for (uint64_t sent = 0; sent < count; sent++)
        publish(channel, amqp_cstring_bytes(queue), 0, NULL, amqp_empty_bytes);
    amqp_queue_declare(connection, channel, amqp_cstring_bytes(queue), 1, 0, 0, 0, amqp_empty_table);
    check_reply("queue.declare");
}

static void publish_confirmed(int channel, const char *queue, uint64_t count, uint64_t window) {
    uint64_t sent = 0, confirmed = 0;
    amqp_frame_t frame;
    while (confirmed < count) {
        for (; sent < count && sent - confirmed < window; sent++)
            publish(channel, amqp_cstring_bytes(queue), 1, NULL, amqp_empty_bytes);
        do {
            check(amqp_simple_wait_frame(connection, &frame), "waiting for a confirm");
            if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
                fail("confirming");
            amqp_basic_ack_t *ack = frame.payload.method.decoded;
            /* One queue confirms in order, so the highest tag counts them all. */
            if (ack->delivery_tag <= confirmed || (!ack->multiple && ack->delivery_tag != confirmed + 1))
                fail("confirming in order");
            confirmed = ack->delivery_tag;
        } while (amqp_frames_enqueued(connection) || amqp_data_in_buffer(connection));
        amqp_maybe_release_buffers(connection);
    }
}

static void start_consumer(int channel, const char *queue, int prefetch) {
    if (prefetch) {
        amqp_basic_qos(connection, channel, 0, prefetch, 0);
        check_reply("basic.qos");
    }
    amqp_basic_consume(connection, channel, amqp_cstring_bytes(queue), amqp_cstring_bytes("c"), 0, !prefetch, 0,
                       amqp_empty_table);
    check_reply("basic.consume");
}

static void next_delivery(amqp_envelope_t *envelope) {
    amqp_maybe_release_buffers(connection);
    amqp_rpc_reply_t reply = amqp_consume_message(connection, envelope, NULL, 0);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("waiting for a delivery");
}

static void consume(int channel, const char *queue, uint64_t count, int prefetch) {
    amqp_envelope_t envelope;
    start_consumer(channel, queue, prefetch);
    for (uint64_t taken = 0; taken < count; taken++) {
        next_delivery(&envelope);
        if (prefetch) check(amqp_basic_ack(connection, channel, envelope.delivery_tag, 0), "basic.ack");
        amqp_destroy_envelope(&envelope);
    }
    amqp_basic_cancel(connection, channel, amqp_cstring_bytes("c"));
    check_reply("basic.cancel");
}

static void call(int channel, const char *queue, uint64_t count, double *took) {
    char id[24];
    amqp_envelope_t envelope;
    for (uint64_t number = 0; number < count; number++) {
        double begun = now();
        snprintf(id, sizeof id, "%llu", (unsigned long long)number);
        amqp_bytes_t wanted = amqp_cstring_bytes(id);
        publish(channel, amqp_cstring_bytes(queue), 1, REPLY_TO, wanted);
        next_delivery(&envelope);
        amqp_bytes_t got = envelope.message.properties.correlation_id;
        if (got.len != wanted.len || memcmp(got.bytes, wanted.bytes, got.len) != 0) fail("matching a reply");
        amqp_destroy_envelope(&envelope);
        took[number] = now() - begun;
    }
}

static void serve(const char *queue) {
    amqp_envelope_t envelope;
    int channel = open_channel(0);
    start_consumer(channel, queue, 0);
    for (;;) {
        next_delivery(&envelope);
        amqp_basic_properties_t *asked = &envelope.message.properties;
        publish(channel, asked->reply_to, 0, NULL, asked->correlation_id);
        amqp_destroy_envelope(&envelope);
    }
}

static void connect_to(char **arguments) {
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (socket == NULL) fail("making a socket");
    check(amqp_socket_open(socket, arguments[0], atoi(arguments[1])), "connecting");
    amqp_rpc_reply_t reply = amqp_login(connection, arguments[4], 0, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN, arguments[2],
                                        arguments[3]);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("logging in");
}

static void run(const char *kind, const char *queue, uint64_t count, int window, int channel, double *took) {
    if (!strcmp(kind, "publish")) publish_unconfirmed(channel, queue, count);
    if (!strcmp(kind, "confirms") || !strcmp(kind, "serial")) publish_confirmed(channel, queue, count, window);
    if (!strcmp(kind, "consume") || !strcmp(kind, "ack")) consume(open_channel(0), queue, count, window);
    if (!strcmp(kind, "rpc")) call(channel, queue, count, took);
    if (!strcmp(kind, "large")) {
        publish_confirmed(open_channel(1), queue, count, window);
        consume(open_channel(0), queue, count, window);
    }
}

int main(int count, char **arguments) {
    if (count == 2 && !strcmp(arguments[1], "version")) {
        puts(amqp_version());
        return 0;
    }
    if (count != 13) fail("reading the arguments");
    const char *kind = arguments[1], *queue = arguments[7];
    const char *warm_queue = strcmp(kind, "rpc") ? arguments[8] : queue; /* the server has no other */
    uint64_t messages = strtoull(arguments[9], NULL, 10), warmup = strtoull(arguments[10], NULL, 10);
    size_t size = strtoull(arguments[11], NULL, 10);
    int window = atoi(arguments[12]), confirms = !strcmp(kind, "confirms") || !strcmp(kind, "serial");
    double *took = calloc(messages > warmup ? messages : warmup, sizeof *took);
    body = amqp_bytes_malloc(size);
    if (took == NULL || body.bytes == NULL) fail("allocating");
    memset(body.bytes, 0, size);
    connect_to(arguments + 2);
    if (!strcmp(kind, "serve")) serve(queue);
    int warm_channel = open_channel(confirms);
    if (!strcmp(kind, "rpc")) start_consumer(warm_channel, REPLY_TO, 0);
    int channel = !strcmp(kind, "rpc") ? warm_channel : open_channel(confirms);
    run(kind, warm_queue, warmup, window, warm_channel, took);
    double begun = now(), begun_cpu = cpu();
    run(kind, queue, messages, window, channel, took);
    printf("%.9f %.9f\n", now() - begun, cpu() - begun_cpu);
    if (!strcmp(kind, "rpc"))
        for (uint64_t number = 0; number < messages; number++) printf("%.9f\n", took[number]);
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
    return 0;
}
