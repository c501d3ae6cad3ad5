// Enqueues one job of each kind, and prints the ids as JSON.
import { Producer } from './producer.mjs';

const producer = await Producer.connect(process.env.BROKER_JOBS_URL ?? 'amqp://guest:guest@localhost/');
const now = await producer.enqueue('greet', ['Ann']);
const later = await producer.schedule(2, 'greet', ['Bob']);
const after = await producer.after(now, 'greet');
const batch = await producer.batch('greetings from Node.js', 'greet', [['Eve'], ['Max'], ['Zoe']]);
await producer.close();
console.log(JSON.stringify({ now, later, after, batch }));
