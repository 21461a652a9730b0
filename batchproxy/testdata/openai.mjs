// Drives the proxy at BASE_URL with OpenAI's own client: several clients ask for embeddings at the same time, one streams a
// chat, ten stream at once, one leaves in the middle, one makes a mistake. It prints one line of JSON with what it was given.
import OpenAI from "openai";

const client = () => new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "k", maxRetries: 0 });

async function embed(id) {
  const own = client();
  const out = [];
  for (let i = 0; i < 10; i++) {
    const input = i % 3 === 0 ? `${id}/${i}` : [`${id}/${i}/a`, `${id}/${i}/b`];
    const response = await own.embeddings.create({ model: "m", input, ...(i % 2 ? { encoding_format: "float" } : {}) });
    out.push({
      input: [input].flat(),
      values: response.data.map((d) => d.embedding),
      indexes: response.data.map((d) => d.index),
      tokens: response.usage.prompt_tokens,
    });
  }
  return out;
}

const embeddings = (await Promise.all([...Array(8).keys()].map(embed))).flat();

let chat = "";
let chunks = 0;
const stream = await client().chat.completions.create({ model: "m", stream: true, messages: [{ role: "user", content: "count" }] });
for await (const chunk of stream) {
  chat += chunk.choices[0]?.delta?.content ?? "";
  chunks++;
}

// Streams side by side, with what they used at their end.
async function converse(n) {
  const own = await client().chat.completions.create({
    model: "m", stream: true, stream_options: { include_usage: true }, messages: [{ role: "user", content: `${n}` }],
  });
  let text = "";
  let usage = null;
  for await (const chunk of own) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, prompt: usage?.prompt_tokens, completion: usage?.completion_tokens };
}
const conversations = await Promise.all([...Array(10).keys()].map(converse));

// One that never ends by itself.
let aborted = 0;
const endless = await client().chat.completions.create({ model: "m", stream: true, messages: [{ role: "user", content: "forever" }] });
for await (const _ of endless) {
  if (++aborted === 3) endless.controller.abort();
}

let fault = {};
try {
  await client().embeddings.create({ model: "n", input: "x" });
} catch (err) {
  fault = { name: err.constructor.name, status: err.status, code: err.code, param: err.param, type: err.type, message: err.message };
}
const listed = [];
for await (const model of client().models.list()) listed.push(model.id);

console.log(JSON.stringify({ embeddings, chat, chunks, conversations, aborted, fault, listed }));
