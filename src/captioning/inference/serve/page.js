"use strict";
const AT_ONCE = 8; // requests; the server makes batches of them
const at = (id) => document.getElementById(id);
const settings = at("settings");
let model = { decoding: {}, limits: {}, urls: false };
let token = sessionStorage.getItem("token") || "";
let running = 0;
const queue = [];

class Locked extends Error {}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the server can't be reached");
  }
  if (answer.status === 401) throw new Locked("the token in the settings is missing or wrong");
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  const { detail } = content;
  throw new Error(Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ") : detail || `the server answers ${answer.status}`);
}

async function learnModel() {
  try {
    model = await ask("v1/model");
    at("locked").hidden = !token;
    at("model").textContent = model.model;
    at("address").hidden = !model.urls;
    showDefaults();
    say("");
  } catch (error) {
    if (error instanceof Locked) at("locked").hidden = false;
    say(error.message, true);
  }
}

function showDefaults() {
  for (const field of settings.querySelectorAll("[name]")) {
    const value = model.decoding[field.name];
    if (field.type === "range") field.defaultValue = value ?? field.min;
    else if (value !== undefined && value !== null) field.placeholder = value;
  }
  settings.reset();
}

function showRanges() {
  for (const field of settings.querySelectorAll("[type=range]")) field.parentElement.querySelector("output").value = field.value;
}

function chosen() {
  const given = {};
  for (const { name, value, type } of settings.querySelectorAll("[name]")) {
    if (value === "") continue;
    given[name] = type === "text" ? value : Number(value);
  }
  return given;
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function add(image) { // { file } or { url }
  const card = at("card").content.cloneNode(true).firstElementChild;
  card.image = image;
  const image = card.querySelector("img");
  if (image.file) {
    image.src = URL.createObjectURL(image.file);
    image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  } else image.hidden = true;
  card.querySelector(".name").textContent = image.file?.name || image.url || "";
  card.querySelector(".remove").onclick = () => { card.remove(); count(); };
  at("cards").prepend(card);
  enqueue(card);
}

function enqueue(card) {
  card.classList.add("waiting");
  queue.push(card);
  work();
}

async function work() {
  count();
  if (running >= AT_ONCE || !queue.length) return;
  const card = queue.shift();
  if (!card.isConnected) return work();
  running += 1;
  work();
  const turn = card.turn = (card.turn || 0) + 1;
  let result;
  try {
    [result] = (await request(card.image)).results;
  } catch (error) {
    if (error instanceof Locked) at("locked").hidden = false;
    result = { captions: [], error: error.message };
  }
  running -= 1;
  if (turn === card.turn) show(card, result);
  work();
}

function request({ file, url }) {
  if (url) return ask("v1/captions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ images: [{ url }], ...chosen() }) });
  if (file.size > model.limits.body) throw new Error(`larger than ${(model.limits.body / 1e6).toFixed(0)} MB`);
  const form = new FormData();
  form.append("images", file);
  for (const [name, value] of Object.entries(chosen())) form.append(name, value);
  return ask("v1/captions/upload", { method: "POST", body: form });
}

function show(card, { captions, error }) {
  card.classList.remove("waiting");
  card.querySelector(".captions").replaceChildren(...captions.map(line));
  card.querySelector("img").alt = captions[0]?.text || "";
  const problem = card.querySelector(".error");
  problem.textContent = error || "";
  problem.hidden = !error;
}

function line({ text, score }) {
  const item = at("caption").content.cloneNode(true).firstElementChild;
  item.querySelector(".text").textContent = text || "(an empty caption)";
  item.querySelector(".score").textContent = score.toFixed(2);
  item.querySelector("meter").value = Math.exp(score);
  const copy = item.querySelector(".copy");
  copy.hidden = !navigator.clipboard;
  copy.onclick = async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  };
  return item;
}

function count() {
  const open = running + queue.length;
  at("again").disabled = !at("cards").children.length;
  if (open) say(`${open} to go`);
  else if (!at("status").classList.contains("bad")) say("");
}

function addFiles(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (images.length < files.length) say("only images can be captioned", true);
  for (const file of images) add({ file });
}

function addText(text) {
  const url = text.trim();
  if (!/^https?:\/\/\S+$/i.test(url)) return;
  if (model.urls) add({ url });
  else say("this server fetches no images from the web (--allow-urls)", true);
}

async function openCamera() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say(`no camera: ${error.message}`, true);
    return;
  }
  const video = at("viewfinder").querySelector("video");
  video.srcObject = stream;
  at("viewfinder").onclose = () => stream.getTracks().forEach((track) => track.stop());
  at("leave").onclick = () => at("viewfinder").close();
  at("shoot").onclick = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => add({ file: new File([blob], "camera.png", { type: "image/png" }) }), "image/png");
    at("viewfinder").close();
  };
  at("viewfinder").showModal();
}

document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
  else addText(event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text"));
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
  else if (!event.target.closest("input")) addText(event.clipboardData.getData("text"));
});
at("files").addEventListener("change", () => { addFiles(at("files").files); at("files").value = ""; });
at("address").addEventListener("submit", (event) => { event.preventDefault(); addText(at("url").value); at("address").reset(); });
at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
at("camera").addEventListener("click", openCamera);
at("token").addEventListener("change", () => { token = at("token").value.trim(); sessionStorage.setItem("token", token); learnModel(); });
settings.addEventListener("input", showRanges);
settings.addEventListener("reset", () => setTimeout(showRanges));
settings.addEventListener("submit", (event) => {
  event.preventDefault();
  for (const card of at("cards").children) enqueue(card);
});
showRanges();
learnModel();
