// Vercel's AI SDK: `@ai-sdk/openai`, whose default is Responses, its chat, and `@ai-sdk/openai-compatible`.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, experimental_generateSpeech, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { apiKey, baseURL, engine, lastMessages, leftEarly, OSLO, Place, PLACE } from "./board.mjs";

const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({ name: "callboard", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });
const summary = { openai: { reasoningSummary: "auto", reasoningEffort: "low", forceReasoning: true } };

for (const [name, of] of [["responses", openai], ["chat", openai.chat], ["compatible", compatible]]) {
  const asked = { model: of("owl"), prompt: "Hello.", maxRetries: 0 };
  const failing = { ...asked, onError: () => {} };

  test(`${name}: whole and streamed`, async () => {
    await engine({ reply: ["Ho", "o."] });
    const reply = await generateText({ ...asked, system: "Be an owl." });
    assert.deepEqual([reply.text, reply.usage.totalTokens, reply.finishReason], ["Hoo.", 9, "stop"]);
    assert.deepEqual(reply.warnings, []);
    const stream = streamText(asked);
    assert.equal(await stream.text, "Hoo.");
    assert.equal((await stream.usage).totalTokens, 9);
  });

  test(`${name}: tools run`, async () => {
    const execute = async ({ level }) => (await engine({ reply: ["Done."] }), `at ${level}`);
    const tools = { dim: tool({ inputSchema: z.object({ level: z.number() }), execute }) };
    for (const ask of [generateText, streamText]) {
      await engine({ tool_call: { name: "dim", arguments: { level: 3 } } });
      const reply = await ask({ ...asked, tools, stopWhen: stepCountIs(3) });
      assert.equal(await reply.text, "Done.");
      assert.equal((await lastMessages()).at(-1).content, "at 3");
    }
  });

  test(`${name}: objects by zod`, async () => {
    await engine({ reply: PLACE });
    for (const ask of [generateText, streamText])
      assert.deepEqual(await (await ask({ ...asked, output: Output.object({ schema: Place }) })).output, OSLO);
  });

  if (name !== "chat")
    test(`${name}: thoughts are told`, async () => {
      await engine({ reasoning: ["Hm", "m."], reply: ["Yes."] });
      const providerOptions = name === "responses" ? summary : {};
      for (const ask of [generateText, streamText]) {
        const reply = await ask({ ...asked, providerOptions });
        assert.deepEqual([await reply.reasoningText, await reply.text], ["Hmm.", "Yes."]);
      }
    });

  test(`${name}: errors and retries`, async () => {
    const refused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status && !error.isRetryable;
    await assert.rejects(generateText({ ...asked, model: of("nobody") }), refused(404));
    const content = [{ type: "image", image: new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]) }];
    await assert.rejects(generateText({ ...asked, prompt: [{ role: "user", content }] }), refused(400));
    await engine({ fail_status: 500, fail_times: 1, reply: ["ok"] });
    assert.equal((await generateText({ ...asked, maxRetries: 2 })).text, "ok");
    await engine({ error_at: 3, reply: ["a", "b", "c", "d"] });
    const seen = [];
    for await (const part of streamText(failing).fullStream) seen.push(part.type === "text-delta" ? part.text : part.type);
    assert.ok(seen.join("").includes("abc") && seen.includes("error"), seen.join(" "));
  });

  test(`${name}: an abort stops the engine`, async () => {
    const before = await leftEarly();
    await engine({ token_delay_s: 0.05, reply: Array(400).fill("w ") });
    const controller = new AbortController();
    for await (const part of streamText({ ...failing, abortSignal: controller.signal }).fullStream)
      if (part.type === "text-delta") controller.abort();
    assert.equal(await leftEarly(), before + 1);
  });
}

test("responses go on from one another", async () => {
  await engine({ echoes: true });
  const first = await generateText({ model: openai("owl"), prompt: "one" });
  const { responseId } = first.providerMetadata.openai;
  const providerOptions = { openai: { previousResponseId: responseId } };
  assert.equal((await generateText({ model: openai("owl"), prompt: "two", providerOptions })).text, "re: two ");
  assert.deepEqual((await lastMessages()).map((one) => one.content), ["one", "re: one ", "two"]);
});

test("embeddings and speech", async () => {
  for (const model of [openai.embedding("owl"), compatible.embeddingModel("owl")])
    assert.equal((await embedMany({ model, values: ["a b", "c"] })).embeddings.length, 2);
  const speech = await experimental_generateSpeech({ model: openai.speech("tts-1"), text: "Hello.", voice: "alloy" });
  assert.equal(speech.audio.mediaType, "audio/mpeg");
});
