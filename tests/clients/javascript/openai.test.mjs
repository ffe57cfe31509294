// The npm package `openai`.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, baseURL, engine, lastMessages, leftEarly, OSLO, Place, PLACE, tinyKey } from "./board.mjs";

const model = "owl";
const messages = [{ role: "user", content: "Hello." }];
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const call = { name: "dim", arguments: { level: 3 } };
const parameters = { type: "object", properties: { level: { type: "integer" } }, required: ["level"], additionalProperties: false };

test("chat whole and streamed", async () => {
  await engine({ reply: ["Ho", "o."] });
  const reply = await client.chat.completions.create({ model, messages });
  assert.equal(reply.choices[0].message.content, "Hoo.");
  assert.equal(reply.usage.total_tokens, 9);
  assert.ok(reply._request_id);
  const stream = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
  assert.equal(await stream.finalContent(), "Hoo.");
  assert.equal((await stream.finalChatCompletion()).usage.total_tokens, 9);
});

test("tools run", async () => {
  const dim = zodFunction({
    name: "dim",
    parameters: z.object({ level: z.number().int() }),
    function: async ({ level }) => (await engine({ reply: ["Done."] }), `at ${level}`),
  });
  for (const stream of [false, true]) {
    await engine({ tool_call: call });
    const runner = client.chat.completions.runTools({ model, messages, tools: [dim], stream });
    assert.equal(await runner.finalContent(), "Done.");
    assert.equal((await lastMessages()).at(-1).content, "at 3");
  }
});

test("objects by zod", async () => {
  await engine({ reply: PLACE });
  const chat = await client.chat.completions.parse({ model, messages, response_format: zodResponseFormat(Place, "place") });
  assert.deepEqual(chat.choices[0].message.parsed, OSLO);
  const response = await client.responses.parse({ model, input: "x", text: { format: zodTextFormat(Place, "place") } });
  assert.deepEqual(response.output_parsed, OSLO);
});

test("responses go on from one another", async () => {
  const tools = [{ type: "function", name: "dim", strict: true, parameters }];
  await engine({ tool_call: call });
  const first = await client.responses.stream({ model, input: "Dim it.", tools }).finalResponse();
  const { call_id } = first.output.find((item) => item.type === "function_call");
  await engine({ reply: ["Done."] });
  const input = [{ type: "function_call_output", call_id, output: "ok" }];
  const second = await client.responses.create({ model, input, tools, previous_response_id: first.id });
  assert.equal(second.output_text, "Done.");
  assert.deepEqual((await lastMessages()).map((one) => one.role), ["user", "assistant", "tool"]);
  assert.equal((await client.responses.retrieve(second.id)).output_text, "Done.");
});

test("errors have the package's classes", async () => {
  const asked = (key, over) => new OpenAI({ baseURL, apiKey: key, maxRetries: 0 }).chat.completions.create({ model, messages, ...over });
  await assert.rejects(asked("cb_wrong"), OpenAI.AuthenticationError);
  await assert.rejects(asked(apiKey, { model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(asked(apiKey, { temperature: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  await assert.rejects(asked(tinyKey, { messages: [{ role: "user", content: "word ".repeat(400) }] }), OpenAI.RateLimitError);
  const content = [{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }];
  await assert.rejects(asked(apiKey, { messages: [{ role: "user", content }] }), (error) => error.code === "unsupported");
});

test("a failure in a stream is raised, one before it tried again", async () => {
  await engine({ error_at: 3, reply: ["a", "b", "c", "d"] });
  let text = "";
  await assert.rejects(async () => {
    for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) text += chunk.choices[0].delta.content ?? "";
  }, OpenAI.APIError);
  assert.equal(text, "abc");
  await engine({ fail_status: 500, fail_times: 1, reply: ["ok"] });
  const patient = new OpenAI({ baseURL, apiKey });
  assert.equal((await patient.chat.completions.create({ model, messages })).choices[0].message.content, "ok");
});

test("an abort stops the engine", async () => {
  const before = await leftEarly();
  await engine({ token_delay_s: 0.05, reply: Array(400).fill("w ") });
  const stream = await client.chat.completions.create({ model, messages, stream: true });
  for await (const _ of stream) break;
  assert.equal(await leftEarly(), before + 1);
});

test("models, embeddings and speech", async () => {
  const ids = (await client.models.list()).data.map((one) => one.id);
  assert.ok(ids.includes(model) && ids.includes("parrot"));
  const vectors = await client.embeddings.create({ model, input: ["a b", "c"] });
  assert.equal(vectors.data.length, 2);
  assert.equal(vectors.data[0].embedding[0], 2);
  const speech = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "Hello." });
  assert.equal(speech.headers.get("content-type"), "audio/mpeg");
  assert.ok((await speech.arrayBuffer()).byteLength > 1000);
});
