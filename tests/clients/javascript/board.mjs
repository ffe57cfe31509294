// The product under test, and the engine behind it.
import { z } from "zod";

const { BOARD_URL, BOARD_KEY, BOARD_TINY_KEY, ENGINE_CONTROL } = process.env;
export const baseURL = `${BOARD_URL}/v1`;
export const apiKey = BOARD_KEY;
export const tinyKey = BOARD_TINY_KEY;
export const Place = z.object({ city: z.string(), people: z.number() });
export const OSLO = { city: "Oslo", people: 3 };
export const PLACE = ['{"city":', '"Oslo","people":3}'];

export async function engine(script) {
  const headers = { "Content-Type": "application/json" };
  await fetch(ENGINE_CONTROL, { method: "POST", headers, body: JSON.stringify(script) });
}

export const engineState = async () => (await fetch(ENGINE_CONTROL)).json();
export const lastMessages = async () => (await engineState()).requests.at(-1).messages;

// Waits until the engine writes nothing any more, and tells how many of its clients have left early.
export async function leftEarly() {
  for (let tries = 0; tries < 200; tries++) {
    const state = await engineState();
    if (!state.active) return state.left_early;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("the engine still writes");
}
