"""Text to calibrate with where nobody names another: pages of several kinds and languages.

Their order is such that any beginning has a bit of each. A line with %%% begins a page, and says what it is and where
it comes from: "own words" were written for olivine and are under its licence; everything else is out of copyright. In a
chat, the lines that begin with "user: " or "assistant: " begin a turn. It is a module, and no file of text, so that the
keys of results change with it.
"""
# ruff: noqa: E501, RUF001 - lines and signs are those of the text

PAGES = r'''
%%% prose, own words
The harbour wakes before the town does. Long before the first bus climbs the hill, the men who mend nets are already sitting on upturned crates, their hands moving without their eyes. A boy carries coffee from the corner shop, two cups in each hand, and never spills. When the boats come in, nobody shouts; there is only the knocking of wood against stone, the smell of diesel and salt, and gulls that have learned which captain throws the small fish back.

%%% Python, own words
def moving_average(values, width):
    """Average of the last `width` values, for every position where there are enough of them."""
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    total = sum(values[:width])
    averages = [total / width]
    for old, new in zip(values, values[width:]):
        total += new - old
        averages.append(total / width)
    return averages

%%% French, own words
Le marché ouvre à sept heures. Les tomates de la mère Colin sont encore tièdes du soleil d'hier, et le fromager coupe toujours un peu plus que ce qu'on lui demande. Vers midi, tout le monde se retrouve au café de la place, où l'on parle du temps, des impôts et du fils du boulanger qui veut devenir pilote.

%%% encyclopaedia, own words
Photosynthesis is the process by which plants, algae and some bacteria turn light into chemical energy. In the leaves of green plants, chlorophyll absorbs mostly red and blue light. Water is split, oxygen is released, and the energy that was gained is used to build sugars from carbon dioxide. The overall reaction is often written as 6 CO2 + 6 H2O -> C6H12O6 + 6 O2, although it proceeds in many steps. Roughly half of the oxygen in the atmosphere comes from the sea.

%%% chat, own words
user: How do I change the password of my account?
assistant: Open the settings, choose "Security", and then "Change password". You will be asked for the current password once and for the new one twice. If you do not remember the current one, choose "Forgot password" on the sign-in page; a link will be sent to your e-mail address and stays valid for thirty minutes.
user: The link says that it has expired.
assistant: Then please request a new one. Only the newest link works, so make sure to open the last message that you received.

%%% a recipe, own words
Lentil soup, for four. Chop one onion, two carrots and a stalk of celery, and fry them gently in three spoons of olive oil until they are soft, about ten minutes. Add 250 g of brown lentils, a bay leaf, half a teaspoon of cumin and 1.2 litres of water. Let it simmer, covered, for 35 to 40 minutes. Season with salt, pepper and the juice of half a lemon only at the end, since acid keeps lentils hard. Serve with bread.

%%% JSON, own words
{"order": 48213, "customer": {"name": "M. Okafor", "city": "Lagos"}, "items": [{"sku": "A-17", "quantity": 2, "price": 14.5}, {"sku": "C-03", "quantity": 1, "price": 99.0}], "paid": true, "shipped": null, "notes": "leave at the door"}

%%% German, own words
Die Brücke wurde 1893 gebaut und nach dem Hochwasser von 1954 um achtzig Zentimeter angehoben. Wer heute über sie geht, sieht flussaufwärts die alte Mühle und flussabwärts die neue Siedlung; dazwischen liegen kaum dreihundert Meter und mehr als hundert Jahre.

%%% minutes, own words
Minutes of the meeting of 14 March. Present: Adeyemi, Brandt, Castillo, Dufour, Eriksen. 1. The minutes of the last meeting were approved. 2. Brandt reported that the costs of the new roof are 8 % above the estimate, mainly because of timber. The committee agreed to postpone the painting of the hall until autumn. 3. Castillo will ask three firms for offers for the heating by 2 April. 4. Any other business: the key to the cellar is missing; whoever has it is asked to return it. The meeting closed at 21:40.

%%% a letter, own words
Dear Ms. Lindqvist, thank you for your letter of the 3rd. I was sorry to hear that the chair arrived with a scratched leg. We have asked the carrier to collect it on Thursday between 9 and 12, and a new one will leave our workshop the same day. You need not pack it again. As a small apology, I enclose a voucher of 20 euros, which is valid in our shop and online. Yours sincerely, P. Moreau, customer service.

%%% chat, own words
user: What is the difference between a virus and a bacterium?
assistant: Bacteria are living cells that can grow and divide on their own; many are harmless or even useful, such as those in yoghurt or in our gut. Viruses are much smaller, have no cells of their own, and multiply only inside the cells of a host. That is why antibiotics, which attack parts of bacterial cells, do nothing against a cold or the flu. Vaccines work against both.
user: So why do doctors sometimes give antibiotics for the flu?
assistant: Because a bacterial infection, for example of the lungs, may follow once the flu has weakened the body. The antibiotic is then for the second illness and not for the first.

%%% a proof, own words
Theorem. There are infinitely many prime numbers. Proof. Suppose that there were only finitely many, say p1, p2, ..., pn, and let N = p1 * p2 * ... * pn + 1. Dividing N by any of the primes leaves the remainder 1, so none of them divides N. But every integer greater than 1 has a prime divisor. This contradicts the assumption, and the theorem follows.

%%% Spanish, own words
El tren de las seis llega casi siempre tarde. Nadie se queja, porque en el andén hay un banco al sol y una fuente de agua fría, y porque el jefe de estación cuenta historias de cuando era marinero, que quizá no sean ciertas pero siempre terminan bien.

%%% prose, own words
"I don't see why we should go back," said Ilse. "You left the lamp on." "I left it on because you said you would be right behind me." He laughed at that, although it was not funny, and the dog, which had understood only the word "back", sat down in the middle of the path and refused to be moved in either direction.

%%% medicine, own words
The patient, a 54-year-old woman, reported a dry cough for three weeks, worse at night, without fever. Blood pressure was 128/82 mmHg, pulse 76, oxygen saturation 97 %. Auscultation showed no crackles. She had begun to take an ACE inhibitor six weeks earlier. The drug was replaced, and the cough had disappeared at the visit four weeks later.

%%% SQL, own words
SELECT d.name, COUNT(*) AS employees, ROUND(AVG(e.salary), 2) AS mean_salary
FROM employees AS e
JOIN departments AS d ON d.id = e.department_id
WHERE e.hired_on >= '2019-01-01' AND e.left_on IS NULL
GROUP BY d.name
HAVING COUNT(*) > 5
ORDER BY mean_salary DESC;

%%% Spanish novel, Miguel de Cervantes, Don Quijote (1605), public domain
En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo de los de lanza en astillero, adarga antigua, rocín flaco y galgo corredor.

%%% questions and answers, own words
Q: A train leaves at 8:15 and travels 210 km at 84 km/h. When does it arrive?
A: The journey takes 210 / 84 = 2.5 hours, which is 2 hours and 30 minutes. 8:15 plus 2:30 is 10:45. The train arrives at 10:45.

Q: Which of these words does not belong with the others: copper, oak, silver, zinc?
A: Oak, because it is a wood; the others are metals.

%%% chat, own words
user: Write a short poem about a lighthouse.
assistant: It stands where rock and water disagree,
and says one word, all night, to all the sea.
The ships pass by and never answer back;
they only keep a little off the black.
When morning comes it folds its light away,
as one who did not mean to be the day.

%%% Java, own words
import java.util.*;
public final class Counter {
    private final Map<String, Integer> counts = new TreeMap<>();
    public void add(String word) { counts.merge(word.toLowerCase(Locale.ROOT), 1, Integer::sum); }
    public int of(String word) { return counts.getOrDefault(word.toLowerCase(Locale.ROOT), 0); }
}

%%% German story, Franz Kafka, Die Verwandlung (1915), public domain
Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett zu einem ungeheueren Ungeziefer verwandelt. Er lag auf seinem panzerartig harten Rücken und sah, wenn er den Kopf ein wenig hob, seinen gewölbten, braunen, von bogenförmigen Versteifungen geteilten Bauch.

%%% release notes, own words
# Release notes, version 2.4
- Searching in large folders is about three times faster.
- Files whose names end in a space can be opened again.
- The window remembers its size on the second screen.
- Removed: the old import wizard. Use "File > Import" instead.
Known problem: on some laptops the preview stays blank until the window is resized once.

%%% a contract, own words
The tenant shall pay the rent in advance, on or before the third working day of each month. If the tenant is in arrears with two consecutive payments, the landlord may terminate this agreement by written notice, provided that a period of at least fourteen days has been granted in which the arrears could have been settled. Oral agreements do not exist; changes to this contract must be made in writing.

%%% a data format, own words
To whom it may concern: the sensor reports a temperature every ten seconds as a line such as 2024-05-17T08:31:20Z;node=12;t=21.4;rh=43. A missing value is written as "nan". Clocks are synchronised once an hour, so that jumps of up to two seconds are normal. <p>For the web page, values are averaged over <b>five minutes</b>; see <a href="/help">help</a>.</p>

%%% Italian poem, Dante Alighieri, Inferno (about 1320), public domain
Nel mezzo del cammin di nostra vita
mi ritrovai per una selva oscura,
ché la diritta via era smarrita.

%%% history, own words
In 1928, on returning from a holiday, a bacteriologist noticed that a mould had grown on one of his plates, and that the colonies of bacteria around it had disappeared. It took more than ten years, and the work of many others, until the substance could be made in quantities that were enough to treat patients. What had begun as an untidy bench changed the practice of medicine.

%%% chat, own words
user: Give me three tips for staying focused while studying.
assistant: 1. Work in blocks: 25 to 40 minutes of one task, then a break of five minutes away from the screen.
2. Put the phone in another room. A phone that lies on the table, even face down, costs attention.
3. Begin each block by writing down one sentence that says what will be done at its end, such as "I can explain the second law with an example".

%%% a task and its answer, own words
Instructions: sort the following list by price, cheapest first, and leave out what is sold out. Apples 2.40, pears 3.10 (sold out), plums 1.95, grapes 4.20, lemons 0.60 each.
Answer: lemons 0.60, plums 1.95, apples 2.40, grapes 4.20.

%%% C, own words
#include <stdio.h>
#include <string.h>

/* Reverse the words of a line in place: "one two" becomes "two one". */
static void reverse(char *from, char *to) {
    while (from < to) {
        char kept = *from;
        *from++ = *to;
        *to-- = kept;
    }
}

int main(void) {
    char line[] = "the quick brown fox";
    size_t length = strlen(line);
    reverse(line, line + length - 1);
    for (char *word = line, *end = line; ; ++end) {
        if (*end == ' ' || *end == '\0') {
            reverse(word, end - 1);
            if (*end == '\0') break;
            word = end + 1;
        }
    }
    printf("%s\n", line);
    return 0;
}

%%% Russian novel, Lev Tolstoy, Anna Karenina (1878), public domain
Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Все смешалось в доме Облонских.

%%% prose, own words
She counted the steps as she always had: forty-one to the landing, seventeen to the door, and one that did not exist, which she climbed in the dark out of habit and came down on with a thump. Inside, the clock had stopped at ten past four. It was the right time twice a day, her grandmother used to say, and that was more than could be said of most people.

%%% weather, own words
Weather for the coming days: on Tuesday cloudy with rain from the west, highs of 12 to 15 degrees; in the night to Wednesday clearing, with ground frost in the valleys. On Wednesday sunny, at first with fog near the rivers. From Thursday milder and changeable. Wind moderate, on the coast fresh, from the south-west.

%%% chat, own words
user: Translate into English: "Wer zu spät kommt, den bestraft das Leben."
assistant: "Life punishes those who come too late."
user: And is it meant literally?
assistant: No. It is a saying about missed chances: whoever does not act in time has to live with the consequences.

%%% JavaScript, own words
export async function loadUsers(url, { retries = 3 } = {}) {
  for (let attempt = 1; attempt <= retries; attempt++) {
    const response = await fetch(url, { headers: { Accept: "application/json" } });
    if (response.ok) {
      const users = await response.json();
      return users.filter((user) => user.active).map(({ id, name }) => ({ id, name }));
    }
    if (response.status < 500) throw new Error(`request failed: ${response.status}`);
    await new Promise((resolve) => setTimeout(resolve, 200 * attempt));
  }
  throw new Error("the server did not answer");
}

%%% Chinese classic, Laozi, Daodejing (before 300 BC), public domain
道可道,非常道。名可名,非常名。無名天地之始;有名萬物之母。

%%% novel, Jane Austen, Pride and Prejudice (1813), public domain
It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property of some one or other of their daughters.

%%% science, Charles Darwin, On the Origin of Species (1859), public domain
It is interesting to contemplate an entangled bank, clothed with many plants of many kinds, with birds singing on the bushes, with various insects flitting about, and with worms crawling through the damp earth, and to reflect that these elaborately constructed forms, so different from each other, and dependent on each other in so complex a manner, have all been produced by laws acting around us.

%%% Rust, own words
use std::collections::HashMap;

fn word_counts(text: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for word in text.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()) {
        if !word.is_empty() {
            *counts.entry(word).or_insert(0) += 1;
        }
    }
    counts
}

%%% Japanese novel, Natsume Soseki (1905), public domain
吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。

%%% encyclopaedia, own words
The Amazon is the largest river of South America and, measured by the water that it carries, of the world. It rises in the Andes of Peru, flows eastwards for more than 6,400 kilometres, and reaches the Atlantic in northern Brazil, where its mouth is over 200 kilometres wide. Its basin covers about seven million square kilometres, most of it rainforest. More than a thousand tributaries feed it, of which seventeen are longer than 1,500 kilometres. Ships of the open sea can travel as far as Manaus, and smaller ones to Iquitos in Peru.

%%% chat, own words
user: Can you fix this function? It should return the largest even number in a list.

def largest_even(xs):
    best = 0
    for x in xs:
        if x % 2 == 0 and x > best:
            best = x
    return best
assistant: It fails for lists whose even numbers are all negative, and it returns 0 when there is no even number at all. Here is a version that handles both:

```python
def largest_even(xs):
    evens = [x for x in xs if x % 2 == 0]
    return max(evens, default=None)
```

`max` with `default=None` returns `None` for a list without even numbers, so the caller can tell that case apart from a real zero.

%%% news, own words
The central bank left its key interest rate unchanged at 3.25 per cent on Thursday, as most analysts had expected. Inflation fell to 2.4 per cent in August, from 2.9 per cent in July, mainly because energy became cheaper. "We are on the right path, but we have not arrived," said the bank's president. Shares rose slightly after the announcement; the currency hardly moved.

%%% shell and YAML, own words
#!/bin/sh
set -eu
for file in "$@"; do
    [ -f "$file" ] || { echo "no such file: $file" >&2; exit 1; }
    gzip -9 --keep "$file" && mv "$file.gz" /backup/
done

services:
  web:
    image: nginx:1.27
    ports: ["8080:80"]
    volumes:
      - ./site:/usr/share/nginx/html:ro
    restart: unless-stopped

%%% Portuguese, own words
A reunião de quinta-feira foi adiada para a semana seguinte, porque metade da equipe está doente. Peço que cada um envie até segunda-feira um resumo de uma página sobre o andamento do seu trabalho, com as dúvidas que ficaram em aberto.

%%% instructions, own words
How to change a bicycle tube. 1. Turn the bicycle upside down and take the wheel out; open the brake first if it is a rim brake. 2. Let out all air and lift one side of the tyre over the rim with two levers. 3. Pull out the tube, beginning opposite the valve. 4. Feel along the inside of the tyre for glass or thorns. 5. Pump a little air into the new tube, put the valve through the rim, and lay the tube in. 6. Press the tyre back with your thumbs, the last part next to the valve. 7. Pump, check that the tube is nowhere pinched, and put the wheel back.

%%% a forum, own words
Subject: laptop does not wake from sleep
Hi all, since the update last week my laptop stays black when I open the lid. The power light is on and the fan runs, but neither keyboard nor screen react. Holding the power button for ten seconds helps, but of course everything that was open is lost. Has anyone seen this? - Marta
> Re: Same here. Going back to the previous graphics driver solved it for me; there is a known bug with version 31.2.
> Re: Thanks, that was it! For others: Device Manager > Display > Properties > Driver > Roll Back.

%%% Python, own words
import csv
from collections import defaultdict
from pathlib import Path


class Ledger:
    """Bookings by account; amounts are cents."""

    def __init__(self) -> None:
        self._bookings: dict[str, list[int]] = defaultdict(list)

    def read(self, path: Path) -> None:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                self._bookings[row["account"]].append(round(float(row["amount"]) * 100))

    def balance(self, account: str) -> int:
        if account not in self._bookings:
            raise KeyError(f"no bookings for {account!r}")
        return sum(self._bookings[account])

%%% Dutch and Polish, own words
De trein naar Utrecht vertrekt vandaag van spoor vijf in plaats van spoor acht. Reizigers worden verzocht rekening te houden met een vertraging van ongeveer tien minuten.
Sklep jest czynny od poniedziałku do piątku w godzinach od dziewiątej do osiemnastej, a w soboty tylko do czternastej.

%%% chat, own words
user: Classify the sentiment of this review as positive, negative or neutral: "The room was small, but the staff could not have been kinder, and we would come back any time."
assistant: positive

%%% philosophy, own words
If a ship has every plank replaced over the years, is it still the same ship? One may answer that it is, since at no single moment did it cease to be the ship it was the day before. But suppose that somebody has kept the old planks and builds a ship from them. There are now two ships in the harbour, and each has a claim to the name: one has the history, the other the wood. The puzzle shows that "the same" may mean more than one thing, and that we rarely have to choose.

%%% a table in Markdown, own words
| Country | Capital | Population (million) | Currency |
|---|---|---:|---|
| Kenya | Nairobi | 55.1 | shilling |
| Norway | Oslo | 5.5 | krone |
| Peru | Lima | 34.4 | sol |
| Vietnam | Hanoi | 98.9 | dong |

%%% Chinese, Korean, Arabic and Hindi, own words
今天下午三点在二楼会议室开会,请带上上个月的销售报告。如果不能参加,请提前告诉小李。
내일은 전국에 비가 오겠습니다. 외출할 때 우산을 꼭 챙기시기 바랍니다.
تفتح المكتبة أبوابها من الساعة الثامنة صباحا حتى السادسة مساء.
यह पुस्तक उन लोगों के लिए है जो पहली बार खाना बनाना सीख रहे हैं।

%%% law, Declaration of Independence of the United States (1776), public domain
We hold these truths to be self-evident, that all men are created equal, that they are endowed by their Creator with certain unalienable Rights, that among these are Life, Liberty and the pursuit of Happiness.

%%% a scientific abstract, own words
Background: whether short naps improve recall in older adults is disputed. Methods: 84 participants (mean age 68.2 years, SD 5.1) learnt 40 pairs of words and were then assigned at random to a nap of 30 minutes or to quiet reading. Results: after four hours the nap group recalled 23.6 pairs and the reading group 20.9 (difference 2.7, 95 % confidence interval 0.8 to 4.6, p = 0.006). The effect did not depend on how well participants had slept the night before. Conclusion: a short nap may help to keep what was just learnt; longer studies are needed.

%%% chat, own words
user: Summarise in one sentence: The city council voted on Monday to close the old bridge to cars from May. Buses, bicycles and pedestrians may still cross. Shopkeepers on the north bank fear for their trade, while residents expect less noise. The council will look at the effects after one year.
assistant: From May the old bridge will be closed to cars for a trial year, welcomed by residents and feared by shopkeepers.

%%% mathematics in LaTeX, own words
Let $f(x) = x^2 e^{-x}$ for $x \ge 0$. Then $f'(x) = (2x - x^2) e^{-x}$, which vanishes at $x = 0$ and $x = 2$. Since $f''(2) = -2 e^{-2} < 0$, the function has its maximum $f(2) = 4/e^2 \approx 0.541$ there, and $\int_0^\infty f(x)\,dx = \Gamma(3) = 2$.

%%% French, own words
Pour obtenir une carte de bibliothèque, il suffit de présenter une pièce d'identité et un justificatif de domicile datant de moins de trois mois. L'inscription est gratuite pour les étudiants et les demandeurs d'emploi ; pour les autres, elle coûte douze euros par an. On peut emprunter jusqu'à dix documents à la fois, pour une durée de trois semaines.

%%% a dialogue, own words
INSPECTOR. You were at home all evening?
MRS. HALE. From six o'clock on. I had a headache.
INSPECTOR. And yet the porter says that you asked him for a taxi at eight.
MRS. HALE. The porter is a man of imagination. He also says that he was once a colonel.
INSPECTOR. He was, madam. I served under him.

%%% history, own words
Printing with movable type spread through Europe within a single lifetime. Around 1450 there was one workshop in Mainz; by 1500 there were presses in more than two hundred towns, and perhaps twenty million books had been printed, more than scribes had copied in the thousand years before. Prices fell by about two thirds. With the books came title pages, page numbers and indexes, none of which a manuscript had needed, and with them new readers, who no longer asked a scholar what a book said but looked it up.

%%% HTML, own words
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Opening hours</title>
<style>td { padding: 0.25em 1em; } .closed { color: #a00; }</style></head>
<body><h1>Opening hours</h1>
<table><tr><td>Monday to Friday</td><td>9:00 &ndash; 18:00</td></tr>
<tr><td>Saturday</td><td>10:00 &ndash; 14:00</td></tr>
<tr><td>Sunday</td><td class="closed">closed</td></tr></table></body></html>

%%% German, own words
Sehr geehrte Frau Yilmaz, vielen Dank für Ihre Bewerbung um die Stelle als Laborantin. Wir würden Sie gern persönlich kennenlernen und laden Sie für Dienstag, den 8. Oktober, um 10 Uhr in unser Büro am Hafen ein. Bitte bringen Sie Ihre Zeugnisse mit; die Fahrtkosten werden erstattet.

%%% a product page, own words
Steel kettle, 1.7 litres, 2,200 watts. Boils a full kettle in under six minutes and switches itself off. The handle stays cool, the lid opens with one hand, and the filter can be taken out and washed. Cordless, with a base that turns by 360 degrees. In the box: kettle, base, descaling sachet. Two years' guarantee. "I bought it after my old one leaked, and it is so quiet that I keep checking whether it is on." Price: 39.90, delivery included.

%%% chat, own words
user: I have 3 apples, buy 4 more, eat 2 and give half of the rest to my sister. How many do I have?
assistant: You start with 3 and buy 4, which makes 7. After eating 2 you have 5. Half of 5 is 2.5, so if apples are not cut, you give away 2 and keep 3; if you cut one, you each have two and a half.

%%% economics, own words
When the price of coffee rises, some people drink tea instead; economists call the two goods substitutes. Sugar, which many take with coffee, is a complement: less of it is sold when coffee becomes dear. How strongly buyers react is measured by elasticity, the percentage by which the quantity changes when the price goes up by one per cent. For salt it is almost zero, since nobody eats more of it because it is cheap; for holidays by the sea it may be well above one.

%%% logs, own words
2025-02-11 07:14:03,512 INFO  [scheduler] starting job nightly-index (id=7f3a)
2025-02-11 07:14:09,871 WARN  [indexer] document 1182 has no title, using its file name
2025-02-11 07:15:44,020 ERROR [indexer] cannot read /data/in/4410.pdf: permission denied
2025-02-11 07:15:44,021 INFO  [indexer] 2,316 documents indexed, 1 failed, 104.5 s

%%% Spanish, own words
Para preparar la tortilla, pele un kilo de patatas y córtelas en láminas finas. Fríalas a fuego lento con una cebolla en abundante aceite, sin que se doren, unos veinte minutos. Escúrralas, mézclelas con seis huevos batidos y una pizca de sal, y deje reposar la mezcla antes de cuajarla por los dos lados.

%%% a riddle and its answer, own words
Three switches stand outside a closed room in which there is one lamp. You may turn the switches as often as you like, but enter the room only once. How do you find out which switch belongs to the lamp? Turn on the first switch and wait for ten minutes. Turn it off, turn on the second, and go in. If the lamp is lit, it is the second switch; if it is dark and warm, the first; if it is dark and cold, the third.
'''
