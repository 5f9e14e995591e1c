"""Customer service: a question, its intent or ``none_of_these``, and the answer to give.

Kinds ``intents`` (text, label; CSV) and ``replies`` (prompt, completion; JSON lines) are made from
the same questions. An answer is the intent's template, with the order number of the question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from components.ingest.made.pools import lines, part

OUT_OF_SCOPE = "none_of_these"
ROWS = {"train": 1200, "validation": 400, "test": 600}
OUT_OF_SCOPE_SHARE = {"train": 0.08, "validation": 0.15, "test": 0.25}

QUESTIONS: dict[str, str] = {
    "track_order": """
        where is my [thing]
        when will my [thing] arrive
        has order [n] been shipped yet
        i am still waiting for the [thing] i bought
        can you tell me the delivery status of [n]
        my parcel with the [thing] has not come
        what day does order [n] get here
        track my [thing] please
        how long until the [thing] reaches me
        any news about the shipment of [n]
        the courier was meant to bring my [thing] yesterday
        is [n] on its way""",
    "cancel_order": """
        please cancel order [n]
        i do not want the [thing] any more, stop the order
        can i still call off my purchase of the [thing]
        i ordered the [thing] by mistake, undo it
        how do i cancel [n] before it is sent
        withdraw my order for the [thing]
        i changed my mind about [n]
        do not send the [thing], i no longer need it
        is it too late to cancel the [thing]
        kill order [n] at once""",
    "return_item": """
        how do i send the [thing] back
        i would like to return the [thing]
        the [thing] does not fit, can i give it back
        what is the way to return order [n]
        where do i post a [thing] that i do not like
        i need a return label for [n]
        can a used [thing] be returned
        how many days do i have to return the [thing]
        take the [thing] back please
        i want to hand back [n]""",
    "refund_missing": """
        where is my money for the [thing]
        i returned the [thing] and got no refund
        when do you pay me back for [n]
        the refund of [n] is not on my account
        you still owe me for the [thing] i sent back
        how long does a refund take
        my card was not credited for order [n]
        i have waited weeks for the refund of the [thing]
        did you process the repayment for [n]
        no money back yet for the [thing]""",
    "damaged_item": """
        the [thing] arrived broken
        my [thing] has a crack in it
        order [n] came with a dent
        the [thing] stopped working after one day
        there is a scratch all over the [thing]
        i got a faulty [thing]
        the box of [n] was crushed and the content too
        the [thing] does not switch on
        one part of the [thing] is missing
        what you sent in [n] is defective""",
    "change_address": """
        i moved, please change my address
        send order [n] to another address
        the delivery address of my [thing] is wrong
        can you deliver the [thing] to my office instead
        update the street on my account
        i typed the wrong house number for [n]
        how do i edit where parcels go
        ship the [thing] to my new home
        my post code has changed
        redirect [n] to my neighbour""",
    "payment_failed": """
        my card was declined for the [thing]
        i cannot pay for order [n]
        the payment page shows an error
        why was my payment for the [thing] refused
        checkout fails every time i enter my card
        the bank says fine but you reject the payment
        paying for [n] does not go through
        i tried three cards and none works
        it says transaction failed for the [thing]
        money left my account but [n] is unpaid""",
    "change_password": """
        i forgot my password
        how do i reset my login
        i cannot get into my account
        the password link does not work
        please send me a new password
        i am locked out after too many tries
        where do i change my password
        my login is not accepted
        someone may know my password, i want another
        the code to sign in never comes""",
    "invoice": """
        i need an invoice for order [n]
        can you send me the bill for the [thing]
        where do i download a receipt
        my company wants a proper invoice for [n]
        the receipt of the [thing] lacks the tax number
        please mail the invoice again
        put our firm's name on the bill of [n]
        how do i print the receipt for my [thing]
        i lost the bill for the [thing]
        no invoice came with [n]""",
    "product_question": """
        is the [thing] made for children
        what size does the [thing] have
        which colours of the [thing] are there
        does the [thing] need batteries
        how heavy is the [thing]
        can i wash the [thing] in the machine
        is there a guarantee on the [thing]
        what is the [thing] made of
        when is the [thing] in stock again
        do you have a larger [thing]""",
}
OTHER = """
    what is the capital of norway
    tell me a joke about cats
    who won the match last night
    play some quiet music
    how do i boil an egg
    what will the weather be tomorrow
    translate good morning into french
    how tall is the highest mountain
    set an alarm for seven
    remind me to water the plants
    what is the square root of two
    book a table for four at eight
    who wrote that famous play about denmark
    how far is the moon
    turn the lights off in the kitchen
    what is a good name for a dog
    is chess older than checkers
    how many legs has a spider
    read me the news
    what should i cook tonight
    which bus goes to the harbour
    are dolphins fish
    my knee hurts when i run
    how do plants drink
    write a poem about the sea
    when was the telephone invented
    can you recommend a film
    i feel lonely today
    what does this rash on my arm mean
    convert ten miles to kilometres
    how do i learn to juggle
    who is the president of brazil
    why is the sky blue
    how old is the universe
    what is the best way to train for a marathon
    do you believe in ghosts
    fix the bug in my program
    should i buy shares or bonds
    how is cheese made
    what language do they speak in peru"""
ANSWERS = {
    "track_order": "We looked up [order]. You can follow it with the tracking link in your mail.",
    "cancel_order": "We stop [order] if it has not left yet, and write to you within the hour.",
    "return_item": "You have thirty days to return [order]. A label for the parcel is on its way.",
    "refund_missing": "The refund of [order] takes up to five working days after we have it back.",
    "damaged_item": "We are sorry that [order] is not in order. A new one leaves tomorrow.",
    "change_address": "Please give us the new address. We change it for [order] before it leaves.",
    "payment_failed": "The payment of [order] did not go through. Please try another card.",
    "change_password": "Press forgotten password on the login page. A link comes by mail.",
    "invoice": "The invoice of [order] is attached to the next mail you get from us.",
    "product_question": "All details are on the product page. We have asked a colleague for more.",
    OUT_OF_SCOPE: "I can help with orders and your account only. A colleague takes over.",
}
THINGS = """
    blue jacket
    kettle
    phone case
    desk lamp
    rucksack
    pair of shoes
    garden chair
    board game
    headphones
    coffee grinder
    rain coat
    camera
    toaster
    wool scarf
    bicycle lock
    sleeping bag
    keyboard
    water bottle
    picture frame
    tent
    alarm clock
    umbrella
    blender
    winter hat"""
OPENINGS = ("", "", "", "hello, ", "hi there, ", "excuse me, ", "sorry to bother you, ", "hey ")
ENDINGS = ("", "", "", "?", " thanks", " please help", "!", " asap")

Question = tuple[str, str, str]  # text, intent, answer


def templates() -> dict[str, str]:
    """Return the answer template of each intent."""
    return dict(ANSWERS)


def questions(split: str, seed: int) -> Iterator[Question]:
    """Yield question, intent and answer."""
    generator = random.Random(f"intents-{split}-{seed}")
    pools = {intent: part(lines(text), split) for intent, text in QUESTIONS.items()}
    things, other = part(lines(THINGS), split), part(lines(OTHER), split)
    for _ in range(ROWS[split]):
        if generator.random() < OUT_OF_SCOPE_SHARE[split]:
            intent, text = OUT_OF_SCOPE, generator.choice(other)
        else:
            intent = generator.choice(sorted(pools))
            text = generator.choice(pools[intent])
        number = str(generator.randrange(1000, 10_000))
        order = f"order {number}" if "[n]" in text else "your order"
        text = text.replace("[thing]", generator.choice(things)).replace("[n]", number)
        text = generator.choice(OPENINGS) + text + generator.choice(ENDINGS)
        yield text, intent, ANSWERS[intent].replace("[order]", order)


def intent_rows(split: str, seed: int) -> Iterator[dict[str, str]]:
    """Rows of kind ``intents``."""
    for text, intent, _ in questions(split, seed):
        yield {"text": text, "label": intent}


def reply_rows(split: str, seed: int) -> Iterator[dict[str, str]]:
    """Rows of kind ``replies``."""
    for text, _, answer in questions(split, seed):
        yield {"prompt": f"customer: {text} answer:", "completion": f" {answer}"}
