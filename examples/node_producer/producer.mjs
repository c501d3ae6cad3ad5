// Enqueues jobs on RabbitMQ. Every method resolves when the broker has confirmed the message.
import amqp from 'amqplib';
import { v7 as uuidv7 } from 'uuid';

export class Producer {
  static async connect(url) {
    const connection = await amqp.connect(url);
    const channel = await connection.createConfirmChannel();
    return new Producer(connection, channel);
  }

  constructor(connection, channel) {
    this.connection = connection;
    this.channel = channel;
  }

  // The envelope of a job. `options` are other fields of the envelope, such as `policy: { retries: 3 }`.
  envelope(job, args = [], options = {}) {
    return { v: 1, id: uuidv7(), job, args, queue: 'default', created_at: new Date().toISOString(), ...options };
  }

  // A job that runs as soon as a worker is free. The key names its queue, and a priority that is not normal.
  async enqueue(job, args, options) {
    const envelope = this.envelope(job, args, options);
    const { queue, priority = 'normal' } = envelope;
    const key = priority === 'normal' ? queue : `${queue}:${priority}`;
    await this.#publish('jobs.v1.submit', key, 'job', envelope.id, envelope);
    return envelope.id;
  }

  // A job that the coordinator releases: its time, its parents or a limit decide when. Its epoch is 0.
  async submit(job, args, options) {
    const envelope = this.envelope(job, args, { epoch: 0, ...options });
    await this.#publish('jobs.v1.offer', 'log', 'job', envelope.id, envelope);
    return envelope.id;
  }

  schedule(seconds, job, args) {
    return this.submit(job, args, { due_at: new Date(Date.now() + seconds * 1000).toISOString() });
  }

  // A job that runs after another one has succeeded, with the result of that one as its only argument.
  after(parent, job) {
    return this.submit(job, [null], {
      after: { parents: [{ id: parent, on: 'succeeded' }] },
      result_args: [{ place: 0, parents: [parent] }],
    });
  }

  // Jobs that start together: a chunk with their envelopes as text, then the commit. Several chunks are numbered from 0;
  // keep each below 5,000 jobs and 256 KiB.
  async batch(title, job, argLists) {
    const batch = uuidv7();
    const submission = uuidv7();
    const common = { v: 1, batch, submission, created_at: Date.now() / 1000 };
    const jobs = argLists.map((args) => JSON.stringify(this.envelope(job, args, { epoch: 0, batch })));
    await this.#publish('jobs.v1.offer', 'log', 'chunk', `${submission}.0`, { ...common, number: 0, jobs });
    await this.#publish('jobs.v1.offer', 'log', 'commit', submission, { ...common, chunks: 1, title });
    return batch;
  }

  async close() {
    await this.connection.close();
  }

  async #publish(exchange, key, type, messageId, body) {
    const options = { persistent: true, contentType: 'application/json', type, messageId };
    this.channel.publish(exchange, key, Buffer.from(JSON.stringify(body)), options);
    await this.channel.waitForConfirms();
  }
}
